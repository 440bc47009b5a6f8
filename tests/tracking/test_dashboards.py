"""logger=tensorboard, trackio and several mirror a run into local files, which are read back."""

import importlib.util
import json
import sqlite3

import numpy as np
import pytest

from rmexp.core.errors import collect_fallbacks
from rmexp.tracking.mirror import RunLabels
from rmexp.tracking.predictions import read_judgements, read_predictions
from rmexp.tracking.run_directory import RunDirectory
from rmexp.tracking.run_media import LineChart, TextTable
from rmexp.tracking.tensorboard_logger import TensorBoard, markdown
from rmexp.tracking.trackio_logger import Trackio
from tests.conftest import SHORT_DEMO, CommandLine, result

for extra in ("tensorboard", "trackio"):
    if importlib.util.find_spec(extra) is None:
        pytest.skip(f"the extra `{extra}` is not installed", allow_module_level=True)

ROWS = 3
QUICK = ("model=tiny", SHORT_DEMO, "data.limit=40", "trainer.validations=2", "trainer.max_steps=4")
GROUPS = ("loss", "optim", "tune", "trainer", "model", "data", "template")
ABOUT = RunLabels(
    "x", None, "train", {"loss": "contrastive"}, {"seed": 0} | {name: {} for name in GROUPS}
)


def events(run):
    """What TensorBoard reads of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), {"scalars": 0, "tensors": 0})
    return found.Reload()


def scalars(run):
    """(step, value) of each scalar in the run's event files."""
    found = events(run)
    return {
        tag: [(one.step, one.value) for one in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def lines(home, project="rmexp"):
    """(run, step) -> what Trackio has of it, for each line; and the configuration of each run."""
    with sqlite3.connect(home / f"{project}.db") as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id")
        logged = [(name, step, json.loads(text)) for name, step, text in rows]
        configs = database.execute("SELECT run_name, config FROM configs")
        return logged, {name: json.loads(text) for name, text in configs}


def last_line(run):
    """The last line that Trackio has of a run."""
    return {name: line for name, _, line in lines(run.parent / "trackio")[0]}[run.name]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, cache):
    """A run that is done and one that failed, of one sweep, with two loggers."""
    rmexp = CommandLine(tmp_path_factory.mktemp("dashboards"), cache, reports=True)
    words = ("logger=several", "logger.loggers=[tensorboard,trackio]", "name=grid")
    rows = [f"logger.options.{name}.table_rows={ROWS}" for name in ("tensorboard", "trackio")]
    done = rmexp("-m", *QUICK, *words, *rows, "optim.clip=null", "optim.lr=1e-3,1e30", check=False)
    good, bad = sorted(rmexp.runs(), key=lambda run: run.name)
    assert (result(good)["status"], result(bad)["status"]) == ("done", "failed")
    return good, bad, done


@pytest.mark.slow
def test_every_line_of_metrics_jsonl_is_in_both(sweep):
    good, _, _ = sweep
    expected = [(line.pop("step"), line) for line in RunDirectory(good).metrics()]
    logged, _ = lines(good.parent / "trackio")
    assert [(step, line) for name, step, line in logged if name == good.name][:-1] == expected
    found = scalars(good)
    for step, line in expected:
        for name, value in line.items():
            assert (step, np.float32(value)) in found[name]
    assert sum(map(len, found.values())) == sum(len(line) for _, line in expected) + sum(
        len(points) for name, points in found.items() if name.startswith(("best/", "run/"))
    )


@pytest.mark.slow
def test_the_results_are_those_of_the_best_weights(sweep):
    good, _, _ = sweep
    metrics, found = result(good)["metrics"], scalars(good)
    ((_, best),) = found["best/val/accuracy"]
    assert best == np.float32(metrics["val/accuracy"])
    last = last_line(good)
    assert last["best/val/accuracy"] == metrics["val/accuracy"]
    assert last["run/parameters"] == result(good)["parameters"] == found["run/parameters"][0][1]
    assert "run/pid" not in last
    assert "run/pid" not in found


@pytest.mark.slow
def test_histograms_are_those_of_the_predictions(sweep):
    good, _, _ = sweep
    rewards = read_predictions(good / "predictions" / "test.parquet")
    better, _ = read_judgements(good / "judgements" / "test.parquet").sides
    values = np.array([rewards[key] for key in better])
    (drawn,) = events(good).Histograms("test/rewards_better")
    kept = drawn.histogram_value
    assert (kept.num, kept.sum) == (len(values), pytest.approx(values.sum(), rel=0.05))
    last = last_line(good)
    shown = last["test/rewards_better"]
    assert shown["values"] == np.histogram(values, shown["bins"])[0].tolist()
    assert kept.bucket[-len(shown["values"]) :] == shown["values"]


@pytest.mark.slow
def test_charts_are_images_and_tables_have_the_most_wrongly_ranked(sweep):
    good, _, done = sweep
    found = events(good)
    assert {"test/reliability_plot", "test/margin_plot"} <= set(found.Tags()["images"])
    image = found.Images("test/margin_plot")[0]
    assert (image.width, image.height) == (600, 400)
    last = last_line(good)
    media = good.parent / "trackio" / "media"
    assert (media / last["test/margin_plot"]["file_path"]).read_bytes()[1:4] == b"PNG"
    assert (media / last["report"]["file_path"]).read_text() == (good / "report.html").read_text()
    rewards = read_predictions(good / "predictions" / "test.parquet")
    sides = read_judgements(good / "judgements" / "test.parquet").sides
    gaps = sorted(rewards[i] - rewards[j] for i, j in zip(*sides, strict=True))
    table = last["test/predictions"]["_value"]
    assert [row["margin"] for row in table] == gaps[:ROWS]
    text = found.Tensors("test/predictions/text_summary")[0].tensor_proto.string_val[0].decode()
    assert len(text.splitlines()) == ROWS + 2
    assert "&#60;&#124;im\\_start" not in text
    assert "&#60;&#124;im&#95;start&#124;&#62;" in text
    said = f"test/predictions has the {ROWS} most confidently wrong pairs, of {len(gaps)}"
    assert f"TensorBoard: {said}" in done.stdout
    assert f"Trackio: {said}" in done.stdout


@pytest.mark.slow
def test_the_sweep_is_a_group_and_its_runs_have_their_configuration(sweep):
    good, bad, _ = sweep
    _, configs = lines(good.parent / "trackio")
    assert set(configs) == {good.name, bad.name}
    assert {one["_Group"] for one in configs.values()} == {result(good)["sweep"]}
    assert configs[good.name]["loss"]["margin"] == 1
    assert configs[good.name]["labels"] == {"loss": "contrastive", "data": "demo", "model": "tiny"}
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    statuses = {}
    for run in (good, bad):
        found = events(run)
        content = found.PluginTagToContent("hparams")
        begin = HParamsPluginData.FromString(content["_hparams_/session_start_info"])
        values = begin.session_start_info.hparams
        assert values["labels.loss"].string_value == "contrastive"
        assert values["optim.lr"].number_value == (1e-3 if run == good else 1e30)
        experiment = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
        assert "test/accuracy" in {one.name.tag for one in experiment.metric_infos}
        statuses[run] = "_hparams_/session_end_info" in content
        text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
        assert "margin: 1.0" in text
    assert statuses == {good: True, bad: False}


@pytest.mark.slow
def test_trackio_prints_nothing(sweep):
    import trackio

    good, _, done = sweep
    assert "* " not in done.stdout
    assert result(good)["fallbacks"] == []
    assert trackio.context_vars.current_server.get() is None


# ---------------------------------------------------------------------- resume
OPTIONS = (TensorBoard(0), Trackio("rmexp", 0))


@pytest.mark.parametrize("option", OPTIONS, ids=["tensorboard", "trackio"])
def test_a_resumed_run_continues_its_log(tmp_path, option):
    def log(run, steps):
        (mirror,) = option.start(run, ABOUT)
        for step in steps:
            mirror.log_metrics({"train/loss": float(step)}, step)
        assert mirror.close(1) is None
        assert not mirror.broken

    first = RunDirectory(tmp_path)
    first.update(status="running")
    log(first, [1, 2, 3, 4])  # killed: its last checkpoint is that of step 2
    resumed = RunDirectory.reopen(tmp_path)
    resumed.cut_metrics(2)
    log(resumed, [3, 4, 5])
    if isinstance(option, TensorBoard):
        found = scalars(tmp_path)["train/loss"]
    else:
        logged, configs = lines(tmp_path / "trackio")
        found = [(step, line["train/loss"]) for _, step, line in logged]
        assert len(configs) == 1
    assert found == [(step, float(step)) for step in range(1, 6)]


def test_a_job_that_restarts_replaces_its_log(tmp_path):
    about = RunLabels("0-a", "grid-12", "train", {}, {"seed": 0})
    (tmp_path / "0-a").mkdir()
    for value in (1.0, 2.0):
        (mirror,) = Trackio("rmexp", 0).start(RunDirectory(tmp_path / "0-a"), about)
        mirror.log_metrics({"train/loss": value}, 1)
        assert mirror.close(0) is None
    logged, _ = lines(tmp_path / "trackio")
    assert [(name, line["train/loss"]) for name, _, line in logged] == [("0-a", 2.0)]


def test_trackio_asks_nobody_and_starts_no_server(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a request")

    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/space")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "all"))
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.socket.listen", refuse)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    (mirror,) = Trackio("rmexp", 0).start(run, ABOUT)
    mirror.log_metrics({"train/loss": 1.0}, 1)
    assert (mirror.close(0), mirror.broken) == (None, False)
    assert [name for name, _, _ in lines(tmp_path / "all")[0]] == ["run"]


# ---------------------------------------------------------------- it cannot hurt
def test_a_logger_that_fails_says_so_once_and_leaves_the_others_alone(tmp_path):
    (tmp_path / "tensorboard").write_text("a file in place of the folder")
    (mirror,) = TensorBoard(0).start(RunDirectory(tmp_path), ABOUT)
    said = []
    with collect_fallbacks(said.append):
        for step in (1, 2):
            mirror.log_metrics({"train/loss": 1.0}, step)
    assert mirror.close(0) is None
    assert len(said) == 1
    assert said[0].startswith("TensorBoard takes no more (")


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_missing_extra_is_one_sentence_before_anything_starts(rmexp, monkeypatch, name):
    find = importlib.util.find_spec
    absent = lambda wanted, *rest: None if wanted == name else find(wanted, *rest)  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", absent)
    said = f"rmexp: logger={name} is not installed: pip install 'rmexp[{name}]'.\n"
    for words in ([f"logger={name}"], ["logger=several", f"logger.loggers=[{name}]"]):
        done = rmexp("model=tiny", *words, check=False)
        assert (done.returncode, done.stderr) == (1, said)
    assert rmexp.runs() == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[wandb,tensorbord]", "logger.loggers has tensorbord (did you mean tensorboard?)"),
        ("[]", "logger.loggers is empty: name some of wandb, tensorboard, trackio"),
    ],
)
def test_several_names_loggers_that_exist(rmexp, value, message):
    done = rmexp("model=tiny", "logger=several", f"logger.loggers={value}", check=False)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_list_in_place_of_several_is_answered_with_the_command(rmexp):
    done = rmexp("model=tiny", "logger=[wandb,tensorboard]", check=False)
    assert done.stderr == (
        "rmexp: logger=[wandb,tensorboard]: choose one option of the group, or logger=several "
        "logger.loggers=[wandb,tensorboard].\n"
    )


@pytest.mark.slow
def test_heads_that_train_together_have_each_their_log(rmexp):
    words = ("logger=several", "logger.loggers=[tensorboard,trackio]", "sweep.export=none")
    rmexp("-m", *QUICK, "tune=head", *words, "loss.margin=0.5,1.0")
    runs = sorted(rmexp.runs())
    logged, configs = lines(runs[0].parent / "trackio")
    for run, margin in zip(runs, (0.5, 1.0), strict=True):
        assert len(result(run)["shared_with"]) == 1
        trained = [line for line in RunDirectory(run).metrics() if "train/loss" in line]
        expected = {(line["step"], line["train/loss"]) for line in trained}
        own = [(step, line) for name, step, line in logged if name == run.name]
        assert {(s, line["train/loss"]) for s, line in own if "train/loss" in line} == expected
        assert {step for step, _ in scalars(run)["train/loss"]} == {step for step, _ in expected}
        assert configs[run.name]["loss"]["margin"] == margin


# ----------------------------------------------------------------------- media
def test_a_table_shows_texts_as_they_are():
    table = TextTable(("id", "text"), [("a", "1 | 2\n<b> *x*"), (None, 0.123456)])
    assert markdown(table).splitlines() == [
        "| id | text |",
        "| --- | --- |",
        "| a | 1 &#124; 2 ⏎ &#60;b&#62; &#42;x&#42; |",
        "|  | 0.1235 |",
    ]


def test_a_chart_is_drawn():
    chart = LineChart({"one": ([0.0, 1.0], [0.0, 1.0])}, "Title", "x")
    image = chart.image()
    assert (image.shape, image.dtype) == ((400, 600, 3), np.uint8)
    assert image.min() == 0
    assert image.max() == 255
