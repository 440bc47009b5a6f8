"""A sweep is one command: planned, refused whole, reused, taken up, judged, exported once."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys

import pyarrow.parquet
import pytest
import torch
import transformers

from rmexp.config.compose import compose_config, without_hydra
from rmexp.config.schema import register
from rmexp.core.console import Reporter
from rmexp.core.errors import UserError
from rmexp.runner import finalize
from rmexp.runner.estimate import MeasuredJob
from rmexp.runner.finalize import best_of
from rmexp.runner.fingerprints import config_fingerprint, input_fingerprint
from rmexp.runner.preflight import preflight
from rmexp.runner.sweep_plan import Cell, SweepPlan, make_plan, read_plan
from rmexp.tracking.run_state import State, read_state
from rmexp.training.callbacks import write_checkpoint
from rmexp.training.finish import remove_checkpoints
from rmexp.training.measured_step import MeasuredStep
from tests.conftest import SHORT_DEMO, CommandLine, result

QUICK = (
    "model=tiny", "logger=none", SHORT_DEMO, "data.limit=24", "data.batch_size=8",
    "trainer.validations=1",
)  # fmt: skip
GRID = ("-m", *QUICK, "loss=bradley_terry,contrastive", "seed=0,1", "optim.lr=1e-3")

register()


@pytest.fixture(scope="module")
def swept(tmp_path_factory, cache):
    """A sweep of four runs, and what it printed."""
    rmexp = CommandLine(tmp_path_factory.mktemp("sweep"), cache)
    done = rmexp(*GRID)
    (home,) = rmexp.folder.glob("outputs/sweeps/*")
    return rmexp, home, done.stdout


def files(folder):
    """Every file and when it was written."""
    return {f: f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file()}


@pytest.mark.slow
def test_the_plan_names_cells_directories_and_what_they_depend_on(swept):
    _, home, said = swept
    assert re.fullmatch(r"bradley_terry_contrastive-demo-[0-9a-f]{8}", home.name)
    plan = read_plan(home)
    assert plan.command == list(GRID)
    assert [cell.directory for cell in plan.cells] == [
        "0-loss-bradley_terry_seed-0",
        "1-loss-bradley_terry_seed-1",
        "2-loss-contrastive_seed-0",
        "3-loss-contrastive_seed-1",
    ]
    assert len({cell.fingerprint for cell in plan.cells}) == 4
    for cell in plan.cells:
        assert result(home / cell.directory)["fingerprint"] == cell.fingerprint
        assert result(home / cell.directory)["sweep"] == home.name
    assert re.search(r"loss +bradley_terry, contrastive *\nseed +0, 1 *\n", said)
    for words in ("runs: 4\n", "time: about ", " s a step, 3 steps an epoch", "GiB are free"):
        assert words in said


@pytest.mark.slow
def test_it_ends_with_the_verdict_and_exports_the_best_by_val(swept):
    _, home, said = swept
    runs = [home / cell.directory for cell in read_plan(home).cells]
    by_val = [result(run)["metrics"]["val/accuracy"] for run in runs]
    first = 2 * (sum(by_val[2:]) > sum(by_val[:2]))  # of the setting with the best mean
    best = max(runs[first : first + 2], key=lambda run: result(run)["metrics"]["val/accuracy"])
    setting = "loss=contrastive" if first else "loss=bradley_terry"
    assert f"best    {setting}  (val/accuracy {sum(by_val[first : first + 2]) / 2:.4f}, " in said
    assert "reward_std" not in said, "the whole table is for single runs"
    assert len(re.findall(r"\nval/accuracy .*\], test/accuracy 0\.\d{4} \[", said)) == 4
    assert [run for run in runs if (run / "export").is_dir()] == [best]
    assert f"export  {best.relative_to(home.parents[2])}/export" in said
    assert (home / "comparison.csv").read_text().count("compared") == 2
    assert home.name in (home / "report.html").read_text()
    assert "loss=contrastive and loss=bradley_terry" in said.replace(
        "loss=bradley_terry and loss=contrastive", "loss=contrastive and loss=bradley_terry"
    )
    for run in runs:
        assert [file.name for file in (run / "checkpoints").iterdir()] == ["best.ckpt"]


@pytest.mark.slow
def test_a_warm_job_is_bit_for_bit_the_same_run_cold(swept, fork_server):
    rmexp, home, _ = swept
    warm = home / "3-loss-contrastive_seed-1"  # three jobs ran before it in its process
    words = (*QUICK, "loss=contrastive", "seed=1", "optim.lr=1e-3", "hydra.run.dir=cold")
    assert fork_server.run(rmexp.folder, words) == 0
    assert_same_run(rmexp.folder / "cold", warm)


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["lora", "last_layers"])
def test_a_job_over_the_weights_of_others_is_bit_for_bit_the_same_run_cold(
    tune, rmexp, fork_server
):
    """What is frozen is there once; the first job trained over it, another seed comes second."""
    words = (*QUICK, f"tune={tune}", "model.layers=5", "optim.lr=1e-2")
    done = rmexp("-m", *words, "seed=0,1")
    assert "shared: imports, tokenised rows" in done.stdout
    (home,) = rmexp.folder.glob("outputs/sweeps/*")
    warm = next(home.glob("1-*/result.json")).parent
    assert fork_server.run(rmexp.folder, (*words, "seed=1", "hydra.run.dir=cold")) == 0
    assert_same_run(rmexp.folder / "cold", warm)


def assert_same_run(cold, warm):
    assert result(cold)["metrics"] == result(warm)["metrics"]
    assert result(cold)["fallbacks"] == result(warm)["fallbacks"]
    for file in ("metrics.jsonl", "calibration.json", "judgements/test.parquet"):
        assert (cold / file).read_bytes() == (warm / file).read_bytes(), file
    for split in ("val", "test"):
        one, other = (
            pyarrow.parquet.read_table(run / "predictions" / f"{split}.parquet")
            for run in (cold, warm)
        )
        assert one.equals(other)
    states = [
        torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
        for run in (cold, warm)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
def test_the_same_command_again_reuses_all(swept):
    rmexp, home, _ = swept
    runs = [home / cell.directory for cell in read_plan(home).cells]
    before = [files(run) for run in runs]
    done = rmexp(*GRID)
    assert done.stdout.count("done before: reused") == 4
    assert "runs: 4 (4 done before)" in done.stdout
    assert [files(run) for run in runs] == before


def test_other_data_or_another_grid_is_another_directory():
    def directory(*words):
        checked = preflight([*QUICK, "optim.lr=1e-3", *words], True, None)
        return make_plan(checked.cells, [], "", searches=False).directory

    first = directory("seed=0,1")
    assert directory("seed=0,1", "logger=wandb") == first, "it changes no result"
    others = {directory("seed=0,2"), directory("seed=0,1", "optim.lr=2e-3")}
    assert len(others | {first}) == 3


@pytest.mark.slow
def test_what_killed_failed_and_finished_jobs_need(swept, tmp_path):
    """The done stay; a dead one without a checkpoint, a failed and a half-written one begin."""
    rmexp, home, _ = swept
    copy = CommandLine(tmp_path, rmexp.folder)
    copy.environment = rmexp.environment
    shutil.copytree(rmexp.folder / "outputs", tmp_path / "outputs")
    (there,) = tmp_path.glob("outputs/sweeps/*")
    runs = [there / cell.directory for cell in read_plan(there).cells]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for run, facts in (
        (runs[1], {"status": "running", "pid": ended.pid}),
        (runs[2], {"status": "failed", "error": "OutOfMemoryError: too much"}),
    ):
        (run / "result.json").write_text(json.dumps(result(run) | facts))
    (runs[2] / "error.txt").write_text("Traceback")
    (runs[3] / "result.json").write_text('{"status": "do')
    kept, before = (runs[0] / "result.json").stat().st_mtime_ns, len(files(home))
    status = copy("task=status", f"runs={there.relative_to(tmp_path)}").stdout
    assert "1 done, 1 dead, 1 failed, 1 broken" in status
    assert "OutOfMemoryError: too much" in status
    assert "no heartbeat since" in status
    done = copy(*GRID)
    assert "runs: 4 (1 done before, 1 dead, 1 failed, 1 broken)" in done.stdout
    assert [done.stdout.count(f"{s} before: restarts") for s in ("dead", "failed")] == [1, 1]
    assert (runs[0] / "result.json").stat().st_mtime_ns == kept
    assert not (runs[2] / "error.txt").exists()
    for run in runs:
        assert result(run)["metrics"] == result(home / run.name)["metrics"]
    assert len(files(home)) == before


@pytest.mark.slow
def test_status_only_reads(swept):
    rmexp, home, _ = swept
    before = files(rmexp.folder)
    done = rmexp("task=status")
    assert f"{home.relative_to(rmexp.folder)}: 4 done" in done.stdout
    assert re.search(r"done +0-loss-bradley_terry_seed-0 +3/3 +\d+ +test/accuracy 0\.", done.stdout)
    assert files(rmexp.folder) == before
    assert "there is no sweep in it" in rmexp("task=status", "runs=outputs", check=False).stderr
    refused = rmexp("-m", "task=status", check=False)
    assert (refused.returncode, files(rmexp.folder)) == (1, before)
    assert "task=status makes no run, so there is nothing to sweep" in refused.stderr


@pytest.mark.slow
def test_a_second_writer_is_refused_by_name(swept, monkeypatch):
    # It is this process here, which by the rule for dead owners is worth a short wait.
    monkeypatch.setattr("rmexp.runner.sweep_plan.LOCK_TIMEOUT", 0)
    rmexp, home, _ = swept
    with read_plan(home).locked():
        done = rmexp(*GRID, check=False)
    assert done.returncode == 1
    assert f"this sweep is already running (process {os.getpid()} on " in done.stderr
    assert "job 0" not in done.stdout


@pytest.mark.slow
def test_cells_that_cannot_run_are_all_named_and_nothing_starts(rmexp):
    grid = ("-m", *QUICK, "data.limit=60", "loss=contrastive,regression", "loss.margin=0.5,1.0")
    done = rmexp(*grid, check=False)
    assert done.returncode == 1
    assert "There is no key loss.margin" in done.stderr
    named = "(job loss=regression loss.margin=0.5, loss=regression loss.margin=1.0)"
    assert named in done.stderr
    assert "2 of 4 jobs cannot run, so none was started; sweep.skip_invalid=true" in done.stderr
    assert list(rmexp.folder.iterdir()) == []


@pytest.mark.slow
def test_skip_invalid_leaves_them_out_and_says_so(rmexp):
    grid = ("loss=contrastive,regression", "loss.margin=0.5", "sweep.skip_invalid=true")
    done = rmexp("-m", *QUICK, *grid, "sweep.export=none")
    assert "left out: loss=regression: There is no key loss.margin" in done.stdout
    assert [run.name for run in rmexp.runs()] == ["0-loss-contrastive"]
    assert not (rmexp.runs()[0] / "export").exists()


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "checkpoints" / "last.ckpt"
    write_checkpoint({"step": torch.tensor(1)}, file)

    def full(content, stream):  # as torch does, where the stream takes no more
        try:
            stream.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 4864 vs 4784")  # noqa: B904

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space left"):
            write_checkpoint({"step": torch.tensor(2)}, file)
    assert torch.load(file)["step"] == 1
    assert [path.name for path in file.parent.iterdir()] == ["last.ckpt"]


def test_a_disk_that_is_full_before_a_job_begins_ends_the_sweep(rmexp, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    grid = ("-m", *QUICK, "seed=0,1", "sweep.export=none")
    with monkeypatch.context() as patch:
        patch.setattr("rmexp.tracking.run_directory.write_yaml", full)
        done = rmexp(*grid, check=False)
    assert done.returncode == 1
    assert "is full: free some space. Finished jobs are kept; resume with: python -m" in done.stderr
    assert "rmexp: OSError" not in done.stderr
    assert "Traceback" not in done.stderr
    assert len(rmexp.runs()) == 1, "the second job would only meet the same"


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_export_is_told_alike(rmexp, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rmexp.runner.finalize.export_saved_run", full)
    done = rmexp("-m", *QUICK, "seed=0", check=False)
    assert done.returncode == 1
    assert "is full: free some space. Finished jobs are kept; resume with: python -m" in done.stderr
    monkeypatch.undo()
    transformers.utils.logging.enable_progress_bar()  # as in a new process
    assert "verified by plain" in rmexp("-m", *QUICK, "seed=0").stdout
    assert not transformers.utils.logging.is_progress_bar_enabled(), "no job ran, an export did"


def test_what_a_kill_left_of_a_checkpoint_goes_with_the_run(tmp_path):
    for name in (".writing-best.ckpt", "best.ckpt", "last.ckpt"):
        write_checkpoint({}, tmp_path / "checkpoints" / name)
    remove_checkpoints(tmp_path, "weights")
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["best.ckpt"]


@pytest.mark.slow
def test_a_full_disk_ends_the_sweep_and_loses_nothing(rmexp, monkeypatch):
    from rmexp.training.callbacks import ResumeCheckpoint

    save, saved = ResumeCheckpoint._save, []

    def full(self, trainer):
        save(self, trainer)
        saved.append(self.file)
        if len(saved) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ResumeCheckpoint, "_save", full)
    grid = ("-m", *QUICK, "trainer.checkpoint_every=2", "seed=0,1,2", "sweep.export=none")
    done = rmexp(*grid, check=False)
    assert done.returncode == 1
    assert "is full: free some space. Finished jobs are kept; resume with: python -m" in done.stderr
    assert "Traceback" not in done.stderr
    (home,) = rmexp.folder.glob("outputs/sweeps/*")
    states = [state.status for state in read_plan(home).states()]
    assert states == ["done", "interrupted", "pending"]
    monkeypatch.undo()
    again = rmexp(*grid)
    assert "interrupted before: resumes from its last checkpoint" in again.stdout
    assert {state.status for state in read_plan(home).states()} == {"done"}


def test_a_sweep_that_the_disk_cannot_hold_is_refused(rmexp, monkeypatch):
    usage = shutil._ntuple_diskusage(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    done = rmexp("-m", *QUICK, "seed=0,1", check=False)
    (home,) = rmexp.folder.glob("outputs/sweeps/*")
    assert done.stderr.startswith(
        f"rmexp: The disk of {home.relative_to(rmexp.folder)} is full: free some space, or "
        "keep less with trainer.keep and sweep.export (the sweep may need 1.0 MiB, and "
        "1.0 KiB are free). Finished jobs are kept; resume with: python -m rmexp -m "
    )
    assert rmexp.runs() == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Optuna and its libraries, which are older than ours
def test_optuna_searches_and_goes_on_with_what_is_done(rmexp):
    words = ("+sweeps=optuna", *QUICK, "hydra.sweeper.n_trials=3", "sweep.export=none")
    done = rmexp(*words)
    (home,) = rmexp.folder.glob("outputs/sweeps/optuna-*")
    runs = sorted(home.glob("*/result.json"))
    assert len(runs) == 3
    found = [json.loads(file.read_text()) for file in runs]
    assert {one["status"] for one in found} == {"done"}
    assert len({(one["metrics"]["val/loss"]) for one in found}) == 3, "three settings"
    best = max(one["best_score"] for one in found)
    assert f"best_value: {best}" in (home / "optimization_results.yaml").read_text()
    assert "runs: up to 3, proposed by Optuna; 0 done before" in done.stdout
    assert "time: about " in done.stdout
    assert "GiB are free" in done.stdout
    assert rmexp(*words).stdout.count("done before: reused") == 3


@pytest.mark.filterwarnings("ignore")
def test_a_search_without_one_good_trial_says_what_failed(rmexp):
    words = (*QUICK, "hydra.sweeper.n_trials=1", "optim.head_lr=1e38")
    done = rmexp("+sweeps=optuna", *words, check=False)
    assert done.returncode == 1
    assert "lower optim.lr" in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------ in the small
@pytest.mark.slow
def test_a_process_that_is_gone_or_younger_or_silent_is_dead(tmp_path):
    import datetime
    import socket

    now = datetime.datetime.now(datetime.UTC)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    host = socket.gethostname()

    def status(pid, seconds_ago, host=host):
        beat = (now - datetime.timedelta(seconds=seconds_ago)).isoformat()
        facts = {"status": "running", "pid": pid, "host": host, "heartbeat": beat}
        (tmp_path / "result.json").write_text(json.dumps(facts))
        return read_state(tmp_path).status

    try:
        assert status(other.pid, -1) == "running"
        assert status(other.pid, 61) == "dead", "silent for a minute"
        assert status(other.pid, 30) == "dead", "the number was given to a younger process"
        assert status(os.getpid(), 0) == "dead", "who asks does not work on it"
        assert status(1, 0, "elsewhere") == "running"
        assert status(1, 61, "elsewhere") == "dead"
    finally:
        other.communicate(b"\n")
    assert status(other.pid, -1) == "dead"
    assert read_state(tmp_path / "none").status == "pending"


@pytest.mark.slow
def test_fingerprints_tell_what_matters(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("1")
    words = ["data=jsonl", f"data.path={rows}"]

    def config(*more):
        return without_hydra(compose_config([*words, *more]))

    assert config_fingerprint(config()) == config_fingerprint(
        config("name=x", "logger=none", "cache=/elsewhere")
    )
    for more in ("seed=1", "loss.margin=2", "data.limit=3", "trainer.max_epochs=2"):
        assert config_fingerprint(config()) != config_fingerprint(config(more))
    before = input_fingerprint([config()])
    assert input_fingerprint([config("seed=1")]) == before
    rows.write_text("2")
    assert input_fingerprint([config()]) != before


def test_another_sweep_in_the_directory_is_not_overwritten(tmp_path):
    SweepPlan(tmp_path / "s", [], "train", "data and code", []).write()
    SweepPlan(tmp_path / "s", ["other words"], "train", "data and code", []).write()
    with pytest.raises(UserError, match="another sweep is in it"):
        SweepPlan(tmp_path / "s", [], "train", "other code", []).write()


def run(home, loss, monitor, words=(), **metrics):
    home.mkdir()
    (home / "overrides.yaml").write_text(json.dumps(["model=tiny", *words]))
    (home / "config.yaml").write_text(f"loss: {{_target_: {loss}}}")
    return State("done", home, {"monitor": monitor, "metrics": metrics})


def test_a_report_that_fails_does_not_cost_the_export(tmp_path, monkeypatch, capsys):
    state = run(tmp_path / "0", "L", "val/accuracy", **{"val/accuracy": 0.5})
    (state.path / "config.yaml").write_text("loss: {_target_: L}\ntrainer: {keep: none}\n")
    facts = {"status": "done", "fingerprint": "f", **state.result}
    (state.path / "result.json").write_text(json.dumps(facts))

    def fail(home, trust):
        raise RuntimeError("no font")

    monkeypatch.setattr(finalize, "report_saved_run", fail)
    monkeypatch.setattr(finalize, "export_saved_run", lambda home, _: (home / "export").mkdir())
    plan = SweepPlan(tmp_path, [], "train", "", [Cell(0, [], "0", "f")])
    assert not finalize.finish_sweep(plan, [], "best", Reporter())
    assert (state.path / "export").is_dir()
    assert "report failed: RuntimeError: no font" in capsys.readouterr().out


def test_the_best_run_is_chosen_on_val_by_what_runs_have_in_common(tmp_path):
    def pick(*runs):
        best = best_of(runs)
        return best and (best.runs[0].path.name, best.metric)

    def one(name, loss, monitor, loss_value, accuracy):
        metrics = {"val/loss": loss_value, "val/accuracy": accuracy, "test/accuracy": 1 - accuracy}
        return run(tmp_path / name, loss, monitor, [f"name={name}"], **metrics)

    a, b = one("a", "L", "val/loss", 0.1, 0.6), one("b", "L", "val/loss", 0.2, 0.7)
    assert pick(a, b) == ("a", "val/loss")
    c = one("c", "M", "val/loss", 0.05, 0.65)
    assert pick(a, b, c) == ("b", "val/accuracy"), "two losses cannot be compared by their values"
    d = one("d", "L", "val/accuracy", 0.0, 0.7)
    assert pick(b, d) == ("b", "val/accuracy"), "the first of equals"
    assert pick(a, run(tmp_path / "e", "L", "val/nll", **{"val/nll": 1.0})) is None


def test_the_best_setting_is_that_of_the_best_mean_over_seeds_and_folds(tmp_path):
    def one(margin, accuracy, pairs=10, **replicate):
        words = [f"loss.margin={margin}", *(f"{k}={v}" for k, v in replicate.items())]
        metrics = {"val/accuracy": accuracy, "val/pairs": pairs, "val/nll": 1 - accuracy}
        home = tmp_path / f"{margin} {replicate} {accuracy}"
        return run(home, "L", "val/accuracy", words, **metrics)

    seeds = [one(1, 0.9, seed=0), one(1, 0.5, seed=1), one(2, 0.75, seed=0), one(2, 0.8, seed=1)]
    best = best_of(seeds)
    assert (best.name, best.value, best.folds) == ("loss.margin=2", pytest.approx(0.775), 1)
    assert [state.result["metrics"]["val/accuracy"] for state in best.runs] == [0.8, 0.75]
    said = best.lines()
    assert said[0] == "best    loss.margin=2  (val/accuracy 0.7750, mean of 2 runs)"
    assert said[1].endswith("(val/accuracy 0.8000, the best of 2 runs)")
    best = best_of(seeds[:3])
    assert (best.name, best.value) == ("loss.margin=2", 0.75)
    assert len(best.lines()) == 1, "a setting of one run is that run"

    def fold(margin, accuracy, pairs, number):
        return one(margin, accuracy, pairs, **{"data.fold": number})

    folds = [fold(1, 0.9, 10, 0), fold(1, 0.5, 30, 1), fold(2, 0.7, 10, 0), fold(2, 0.61, 30, 1)]
    best = best_of(folds)
    assert (best.name, best.folds) == ("loss.margin=2", 2)
    assert best.value == pytest.approx((0.7 * 10 + 0.61 * 30) / 40), "pairs count alike"
    assert len(best.lines()) == 1, "none of its runs stands for it"
    best = best_of(folds[:3])
    assert (best.name, best.value, best.folds) == ("loss.margin=1", 0.9, 2), "on the common fold"
    assert best_of([folds[0], folds[3]]) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["loss_by_margin", "margin_fine", "seeds", "data_size", "template", "lora_rank"]
)
def test_every_sweep_file_passes_the_preflight(name):
    """Of the others, test_folds.py and the search above."""
    checked = preflight([f"+sweeps={name}", *QUICK], False, None)
    assert checked.multirun
    assert len(checked.cells) > 2
    plan = make_plan(checked.cells, [], "", searches=False)
    assert len({cell.directory for cell in plan.cells}) == len(checked.cells)


def test_disk_is_reckoned_by_what_is_kept():
    million = MeasuredJob(
        MeasuredStep(1.0, 8.0, 10, 8, 8), 80, parameters=10**6, trainable=10**5, kept=None
    )
    once = 4 * (7 * 10**5 + 10**6)  # what one run needs while it works, and an export

    def needed(*words):
        cells = preflight([*QUICK, "seed=0,1", *words], True, None).cells
        return million.disk([cell.config for cell in cells]) - once

    assert needed() == 2 * 4 * 10**5, "the best weights of each"
    assert needed("trainer.keep=none") == 2 * 4 * 10**5, "until the best is exported"
    assert needed("trainer.keep=resume") == 2 * 4 * 4 * 10**5
    assert needed("sweep.export=all", "trainer.keep=none") == 2 * 4 * 10**6
