"""W&B mirrors a run, offline, and cannot hurt it; its sweeps and its saved view are valid."""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import psutil
import pytest
import wandb
import yaml

from rmexp.analysis.compare.runs import places
from rmexp.core.errors import UserError, collect_fallbacks
from rmexp.evaluation.metrics import shown_in
from rmexp.evaluation.reliability import reliability
from rmexp.runner.preflight import preflight
from rmexp.tracking import wandb_workspace
from rmexp.tracking.predictions import read_judgements, read_predictions
from rmexp.tracking.run_directory import RunDirectory
from rmexp.tracking.wandb_logger import STEP, WandBMirror, summary_of
from tests.conftest import ROOT, SHORT_DEMO, CommandLine, result

pytestmark = pytest.mark.slow

WANDB = Path(sys.executable).with_name("wandb")
QUICK = ("model=tiny", SHORT_DEMO, "data.limit=40", "trainer.validations=2", "trainer.max_steps=4")
ROWS = 3


def offline(run):
    """The run's offline directory."""
    (folder,) = run.glob("wandb/offline-run-*")
    return folder


def records(run):
    """The records of the run's offline file, through W&B's own reader."""
    (file,) = offline(run).glob("*.wandb")
    read = subprocess.run(
        [WANDB, "leet", "inspect", "--json", file], capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in read.stdout.splitlines()]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, cache):
    """A run that is done and one that failed, of one sweep."""
    rmexp = CommandLine(tmp_path_factory.mktemp("wandb"), cache, reports=True)
    words = ("logger.tags=[mine,demo]", f"logger.table_rows={ROWS}", "name=grid", "optim.clip=null")
    done = rmexp("-m", *QUICK, *words, "optim.lr=1e-3,1e30", check=False)
    good, bad = sorted(rmexp.runs(), key=lambda run: run.name)
    assert (result(good)["status"], result(bad)["status"]) == ("done", "failed")
    return good, bad, done


@pytest.fixture(scope="module")
def mirrored(sweep):
    """The good run, and what W&B has of it: its run record, history, summary and metrics."""
    found = records(sweep[0])
    history = [r["history"]["item"] for r in found if r["type"] == "history"]
    summary = {}
    for record in found:
        if record["type"] == "summary":
            summary |= record["summary"]["update"]
    metrics = {r["metric"].get("name", "*"): r["metric"] for r in found if r["type"] == "metric"}
    (about,) = (r["run"] for r in found if r["type"] == "run")
    return sweep[0], about, history, summary, metrics


def test_a_run_has_group_job_type_tags_and_a_plain_config(mirrored):
    _, about, *_ = mirrored
    assert (about["run_group"].split("-")[0], about["job_type"], about["project"]) == (
        "grid",
        "train",
        "rmexp",
    )
    assert set(about["tags"]) == {"contrastive", "demo", "tiny", "mine"}
    config = about["config"]["update"]
    assert config["loss"]["margin"] == 1
    assert config["labels"] == {"loss": "contrastive", "data": "demo", "model": "tiny"}


def test_every_line_of_metrics_jsonl_is_in_the_history(mirrored):
    run, _, history, _, _ = mirrored
    lines = RunDirectory(run).metrics()
    sent = [{k: v for k, v in row.items() if not k.startswith("_")} for row in history]
    assert len(lines) > 6
    assert sent[: len(lines)] == [
        {STEP: line["step"]} | {k: v for k, v in line.items() if k != "step"} for line in lines
    ]
    assert len(sent) == len(lines) + 1  # what is shown at the end


def test_summaries_have_a_direction(mirrored):
    *_, history, summary, metrics = mirrored
    assert metrics["val/accuracy"]["summary"] == {"max": True}
    assert metrics["val/loss"]["summary"] == {"min": True}
    assert metrics["val/loss"]["step_metric"] == STEP
    for name, best in (("accuracy", max), ("loss", min)):
        seen = [row[f"val/{name}"] for row in history if f"val/{name}" in row]
        assert len(seen) == 2
        assert summary[f"val/{name}"] == {best.__name__: best(seen)}


@pytest.mark.parametrize(
    ("name", "summary"),
    [
        ("val/accuracy", "max"),
        ("val/helpfulness/accuracy", "max"),
        ("val/ece", "min"),
        ("val/accuracy_low", None),
        ("val/reward_mean", None),
        ("val/length_baseline", None),
        ("test/accuracy", None),
        ("train/loss", None),
    ],
)
def test_the_direction_of_a_metric(name, summary):
    assert summary_of(name) == summary


def test_the_summary_has_the_results_of_the_best_weights(mirrored):
    run, _, history, summary, _ = mirrored
    metrics = result(run)["metrics"]
    for name in ("test/accuracy", "test/accuracy_low", "test/ece_calibrated"):
        assert summary[name] == metrics[name]
    assert (
        summary["best/val/accuracy"] == metrics["val/accuracy"] == history[-1]["best/val/accuracy"]
    )
    assert summary["run/parameters"] == result(run)["parameters"]
    assert "run/pid" not in summary


def test_histograms_and_plots_are_those_of_the_predictions(mirrored):
    run, _, history, _, _ = mirrored
    last = history[-1]
    for name in ("val", "test"):
        rewards = read_predictions(run / f"predictions/{name}.parquet")
        judged = read_judgements(run / f"judgements/{name}.parquet")
        better, worse = (
            np.array([rewards[key] for key in zip(judged.ids_P, side.tolist(), strict=True)])
            for side in (judged.better_P, judged.worse_P)
        )
        for what, given in (
            ("rewards_better", better),
            ("rewards_worse", worse),
            ("margins", better - worse),
        ):
            counts, bins = (last[f"{name}/{what}.{key}"] for key in ("values", "bins"))
            assert counts == np.histogram(given, bins)[0].tolist()
            assert sum(counts) == len(given) > 0
        chart = table(run, last, f"{name}/reliability_plot_table")
        drawn = [row for row in chart["data"] if row[1] == "as trained"]
        expected = reliability(better - worse)
        np.testing.assert_allclose([row[2] for row in drawn], expected.accuracy_B, rtol=1e-6)
        assert {row[1] for row in chart["data"]} >= {"as trained", "calibrated"}
        counts = table(run, last, f"{name}/margin_plot_table")["data"]
        assert sum(row[2] for row in counts) == len(better)


def table(run, row, name):
    """A table that a row of the history has, from its file."""
    (file,) = (v for k, v in row.items() if k.endswith(f"{name}.path"))
    return json.loads((offline(run) / "files" / file).read_text())


def test_the_table_has_the_most_wrongly_judged_and_says_that_it_is_cut(mirrored, sweep):
    run, _, history, _, _ = mirrored
    shown = table(run, history[-1], "test/predictions")
    rewards = read_predictions(run / "predictions/test.parquet")
    judged = read_judgements(run / "judgements/test.parquet")
    keys = zip(judged.ids_P, judged.better_P.tolist(), judged.worse_P.tolist(), strict=True)
    margins = sorted(rewards[id, i] - rewards[id, j] for id, i, j in keys)
    assert [row[-1] for row in shown["data"]] == pytest.approx(margins[:ROWS])
    assert all(row[4] - row[5] == pytest.approx(row[6]) for row in shown["data"])
    assert shown["data"][0][2].startswith("<|im_start|>")
    said = f"test/predictions has the {ROWS} most confidently wrong pairs, of {len(margins)}"
    assert said in sweep[2].stdout


def test_the_local_report_is_in_it(mirrored):
    run, _, history, _, _ = mirrored
    page = offline(run) / "files" / history[-1]["report.path"]
    assert page.read_text() == (run / "report.html").read_text()


def test_an_end_is_recorded_of_both(sweep):
    ends = [
        [r["exit"].get("exit_code", 0) for r in records(run) if r["type"] == "exit"]
        for run in sweep[:2]
    ]
    assert ends == [[0], [1]]


def test_wandb_sync_takes_the_offline_run(sweep, tmp_path):
    words = [WANDB, "sync", "--dry-run", offline(sweep[0])]
    home = os.environ | {"HOME": str(tmp_path), "WANDB_SILENT": "false"}
    done = subprocess.run(words, capture_output=True, text=True, env=home)
    assert done.returncode == 0, done.stderr
    assert next(offline(sweep[0]).glob("*.wandb")).name in done.stdout + done.stderr


def test_compare_takes_the_offline_run_and_names_one_that_was_moved(sweep, tmp_path):
    assert places(str(offline(sweep[0]))) == [sweep[0]]
    moved = tmp_path / offline(sweep[0]).name
    moved.mkdir()
    (moved / "run-x.wandb").touch()
    with pytest.raises(UserError, match="outside of a run directory of rmexp"):
        places(str(moved))


# -------------------------------------------------------------- it cannot hurt
class Broken:
    """A W&B run that fails from some line on."""

    id, summary = "x", {}

    def __init__(self, good):
        self.left, self.lines = good, []

    def define_metric(self, *args, **kwargs):
        """Nothing."""

    def log(self, line):
        if not self.left:
            raise ConnectionError("the service is gone")
        self.left -= 1
        self.lines.append(line)


def test_a_failure_ends_the_mirror_is_said_once_and_stops_nothing(tmp_path):
    said, broken = [], Broken(good=2)
    mirror = WandBMirror(broken, 10)
    with collect_fallbacks(said.append):
        for step in range(5):
            mirror.log_metrics({"train/loss": 1.0}, step)
        assert mirror.show(RunDirectory(tmp_path), {}) == []
    assert broken.lines == [{"train/loss": 1.0, STEP: step} for step in range(2)]
    assert said == [
        "W&B takes no more (ConnectionError: the service is gone): the rest of the run is in its "
        "directory only."
    ]


def test_a_broken_file_of_the_run_stops_nothing(tmp_path):
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "test.parquet").write_text("half of")
    said = []
    with collect_fallbacks(said.append):
        WandBMirror(Broken(good=9), 10).show(RunDirectory(tmp_path), {})
    assert "not a whole parquet file" in said[0]


def test_a_server_that_does_not_answer_leaves_the_run_offline_and_recorded(rmexp, monkeypatch):
    begin = wandb.init

    def refuse(**about):
        if about["mode"] == "online":
            raise wandb.errors.CommError("no answer")
        return begin(**about)

    monkeypatch.setattr(wandb, "init", refuse)
    rmexp(*QUICK, "logger.mode=online", "trainer.max_steps=1")
    (run,) = rmexp.runs()
    found = result(run)
    assert found["status"] == "done"
    assert found["fallbacks"] == [
        "W&B does not start (CommError: no answer): the run is mirrored offline."
    ]
    assert found["wandb"]["mode"] == "offline"
    assert offline(run).is_dir()


def test_a_wandb_that_cannot_start_leaves_the_run_done(rmexp, monkeypatch):
    def refuse(**about):
        raise OSError("no room")

    monkeypatch.setattr(wandb, "init", refuse)
    done = rmexp(*QUICK, "trainer.max_steps=1")
    (run,) = rmexp.runs()
    assert result(run)["status"] == "done"
    assert result(run)["fallbacks"] == [
        "W&B does not start (OSError: no room): the run is not mirrored."
    ]
    assert "wandb sync" not in done.stdout


def test_a_killed_service_costs_a_run_its_mirror_and_the_next_nothing(rmexp, monkeypatch):
    log, killed = WandBMirror.log_metrics, []

    def kill(self, metrics, step=None):
        if step == 2 and not killed:
            killed.extend(p for p in psutil.Process().children() if p.name() == "wandb-core")
            for process in killed:
                process.kill()
                process.wait()
        log(self, metrics, step)

    monkeypatch.setattr(WandBMirror, "log_metrics", kill)
    for name in ("first", "second"):  # in one process, as the jobs of a sweep
        rmexp(*QUICK, f"name={name}")
    assert len(killed) == 1
    first, second = sorted(rmexp.runs(), key=lambda run: run.name.endswith("second"))
    assert result(first)["status"] == result(second)["status"] == "done"
    said = result(first)["fallbacks"]
    assert len(said) == 2
    assert said[0].startswith("W&B takes no more (")
    assert said[1].startswith("W&B does not close the run (")
    assert {line["step"] for line in RunDirectory(first).metrics()} >= {1, 2, 3, 4}
    assert result(second)["fallbacks"] == []
    assert records(second)[-1]["type"] == "exit"


def test_no_rows_means_that_no_text_leaves(rmexp):
    rmexp(*QUICK, "logger.table_rows=0", "trainer.max_steps=1")
    (run,) = rmexp.runs()
    last = [r for r in records(run) if r["type"] == "history"][-1]["history"]["item"]
    assert "test/rewards_better.values" in last
    assert not {"test/predictions.path", "report.path"} & set(last)


# ---------------------------------------------------------------------- sweeps
def drawn(parameter):
    """The values that W&B may give a parameter: all of a list, both ends of a range."""
    if "values" in parameter:
        return parameter["values"]
    if "value" in parameter:
        return [parameter["value"]]
    assert parameter["distribution"] in ("uniform", "log_uniform_values")
    return [parameter["min"], parameter["max"]]


@pytest.mark.parametrize("name", ["bayes", "grid"])
def test_every_command_of_a_wandb_sweep_composes_and_is_accepted(name):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args  # takes 2 seconds

    sweep = yaml.safe_load((ROOT / f"sweeps/wandb/{name}.yaml").read_text())
    assert sweep["command"] == ["${env}", "python", "-m", "rmexp", "${args_no_hyphens}"]
    assert sweep["method"] == name
    names = sweep["parameters"]
    assert sweep["metric"]["name"].startswith("best/val/")
    cells = list(product(*(drawn(parameter) for parameter in names.values())))
    assert len(cells) >= 12
    for cell in cells[:: max(1, len(cells) // 12)]:
        given = {key: {"value": value} for key, value in zip(names, cell, strict=True)}
        words = create_sweep_command_args({"args": given})["args_no_hyphens"]
        assert len(words) == len(names)
        preflight(words, False, None)


# ------------------------------------------------------------------- workspace
@pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")
def test_the_saved_view_shows_what_a_run_logs(mirrored):
    _, about, _, summary, _ = mirrored
    spec = wandb_workspace.view("team", "rmexp")._to_model().model_dump(by_alias=True, mode="json")
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    panels = [panel for section in sections for panel in section["panels"]]
    kinds = [panel["viewType"] for panel in panels]
    assert {
        "Bar Chart",
        "Scatter Plot",
        "Parallel Coordinates Plot",
        "Run History Line Plot",
    } <= set(kinds)
    text = json.dumps(spec)
    for metric in (*wandb_workspace.ACCURACY, *(f"test/{m.name}" for m in shown_in("wandb"))):
        assert metric in summary
        assert metric in text
    for key in (wandb_workspace.LOSS, wandb_workspace.MARGIN):
        group, name = key.split(".")
        assert name in about["config"]["update"][group]
        assert f"config:{group}.value.{name}" in text


@pytest.mark.parametrize("words", [[], ["rmexp"], ["a/b/c"], ["/b"], ["a/b", "c"]])
def test_a_view_needs_one_project(words):
    with pytest.raises(UserError, match=r"rmexp\.tracking\.wandb_workspace ENTITY/PROJECT"):
        wandb_workspace.write_workspace(words)


@pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")
def test_a_view_without_the_extra_or_without_a_server_is_one_sentence(monkeypatch):
    def refuse(self):
        raise ConnectionError("nobody\nthere")

    ws = pytest.importorskip("wandb_workspaces.workspaces")
    monkeypatch.setattr(ws.Workspace, "save_as_new_view", refuse)
    with pytest.raises(UserError, match=r"team/p: W&B does not save the view \(nobody there\)"):
        wandb_workspace.write_workspace(["team/p"])
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UserError, match=r"pip install 'rmexp\[workspace\]'"):
        wandb_workspace.write_workspace(["team/p"])
