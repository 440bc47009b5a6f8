"""Heads of a grid that train side by side are what each would have been by itself."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from rmexp.batching.collate import BatchLayout
from rmexp.models.reward_model import update_facts
from rmexp.models.tiny import Tiny
from rmexp.runner import head_groups
from rmexp.runner.job_spec import JobSpec
from rmexp.tracking.run_directory import RunDirectory
from rmexp.tracking.run_state import State
from rmexp.training.head_module import HeadModule, copy_head
from rmexp.training.multi_head import HeadBank
from tests.conftest import SHORT_DEMO, result
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer

pytestmark = pytest.mark.slow

WORDS = (
    *(
        "model=tiny",
        "logger=none",
        SHORT_DEMO,
        "data.limit=40",
        "trainer.validations=1",
        "tune=head",
        "trainer.max_epochs=2",
    ),
    *("trainer.precision=32-true", "optim.head_lr=1e-2"),
)


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_side_by_side_is_like_alone(rmexp):
    done = rmexp("-m", *WORDS, "loss=contrastive,ties", "seed=0,1", "optim.warmup=0.1,0.5")
    assert done.stdout.count("8 heads train side by side") == 1
    together = {run.name: run for run in rmexp.runs()}
    for loss, warmup in (("contrastive", "0.1"), ("ties", "0.5")):
        rmexp(*WORDS, f"loss={loss}", "seed=1", f"optim.warmup={warmup}", f"name=alone-{loss}")
        (alone,) = (run for run in rmexp.runs() if run.name.endswith(f"alone-{loss}"))
        (same,) = (
            run
            for name, run in together.items()
            if all(word in name for word in (loss, "seed-1", f"warmup-{warmup}"))
        )
        one, other = result(alone), result(same)
        assert sorted(other["shared_with"]) == sorted(set(together) - {same.name})
        assert set(one["metrics"]) == set(other["metrics"])
        for name, value in one["metrics"].items():
            assert other["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
        for first, second in zip(lines(alone), lines(same), strict=True):
            assert first == pytest.approx(second, rel=1e-4, abs=1e-5)
        for fact in ("steps", "best_step", "trainable", "parameters", "kinds", "monitor"):
            assert one[fact] == other[fact], fact
        assert (same / "loss.json").exists() == (loss == "ties")


def test_a_head_that_fails_is_named_and_the_others_go_on(rmexp):
    done = rmexp("-m", *WORDS, "optim.head_lr=1e-2,1e38", "seed=0,1", check=False)
    assert done.returncode == 1
    found = {run.name: result(run) for run in rmexp.runs()}
    assert sorted(r["status"] for r in found.values()) == ["done", "done", "failed", "failed"]
    for name, outcome in found.items():
        assert (outcome["status"] == "failed") == ("38" in name)
    assert "lower optim.lr" in next(r["error"] for r in found.values() if r["status"] == "failed")


def test_what_is_said_of_one_head_is_said_once(rmexp, write_rows):
    rows = [{"prompt": f"q{n}", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(20)]
    own = [word for word in WORDS if not word.startswith("data.limit")]
    rmexp(
        *("-m", *own, "data=jsonl", f"data.path={write_rows(rows)}", "data.test_share=0"),
        *("seed=0,1,2", "trainer.patience=1", "trainer.validations=6", "trainer.max_epochs=6"),
    )
    for run in rmexp.runs():
        found = result(run)
        assert len(found["shared_with"]) == 2
        assert found["fallbacks"] == [
            "There is no test split: selection and test use the same rows (val)."
        ]
        assert found["steps"] <= found["total_steps"] == 18


def test_heads_that_cannot_train_together_train_alone_and_record_why(rmexp, monkeypatch):
    def fails(*_):
        raise RuntimeError("no memory for all of them\nat once")

    monkeypatch.setattr(head_groups, "fit_heads", fails)
    rmexp("-m", *WORDS, "seed=0,1")
    for run in rmexp.runs():
        found = result(run)
        assert found["status"] == "done"
        assert "shared_with" not in found
        (said,) = found["fallbacks"]
        assert said.endswith("it failed: RuntimeError: no memory for all of them")


def test_while_heads_train_their_runs_are_at_work(rmexp, monkeypatch):
    seen, fit = [], head_groups.fit_heads

    def fits(*given):
        seen.extend(result(run)["status"] for run in rmexp.folder.glob("outputs/sweeps/*/*-seed-*"))
        return fit(*given)

    monkeypatch.setattr(head_groups, "fit_heads", fits)
    rmexp("-m", *WORDS, "seed=0,1,2")
    assert seen == ["running"] * 3
    assert [result(run)["status"] for run in rmexp.runs()] == ["done"] * 3


def test_heads_that_are_interrupted_while_they_train_are_left_to_do(rmexp, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(head_groups, "fit_heads", interrupted)
        assert rmexp("-m", *WORDS, "seed=0,1", check=False).returncode == 130
    assert rmexp.runs() == []
    done = rmexp("-m", *WORDS, "seed=0,1")
    assert "2 heads train side by side" in done.stdout
    again = rmexp("-m", *WORDS, "seed=0,1")
    assert again.stdout.count("done before: reused") == 2


def test_a_disk_that_is_full_before_they_train_is_told_and_leaves_no_run_at_work(
    rmexp, monkeypatch
):
    claim, claimed = RunDirectory.claim, []

    def full(path):
        claimed.append(path)
        if len(claimed) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return claim(path)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "claim", full)
        done = rmexp("-m", *WORDS, "seed=0,1", check=False)
    assert done.returncode == 1
    assert "is full: free some space. Finished jobs are kept; resume with: python -m" in done.stderr
    assert rmexp.runs() == []
    assert "runs: 2\n" in rmexp("-m", *WORDS, "seed=0,1").stdout


def test_seeds_that_draw_more_than_the_head_do_not_share_a_model(rmexp, monkeypatch):
    """Their frozen rows of grown embeddings are not stored: each run must find its own again."""
    load = Tiny.load_model

    def grown(self, tokenizer, seed):
        model = load(self, tokenizer, seed)
        update_facts(model, only_head_drawn=False)
        return model

    monkeypatch.setattr(Tiny, "load_model", grown)
    done = rmexp("-m", *WORDS, "seed=0,1")
    assert "side by side" not in done.stdout
    assert not any("shared_with" in result(run) for run in rmexp.runs())
    done = rmexp("-m", *WORDS, "seed=0", "optim.head_lr=1e-2,1e-3")
    assert "2 heads train side by side" in done.stdout


def test_a_head_is_where_its_rows_are():
    """`meta` stands for a GPU."""
    head = copy_head(
        from_conf("model/tiny").load_model(tiny_tokenizer(), 0), 0, from_conf("head/linear")
    )
    rows = SimpleNamespace(plan=lambda: [[0]])
    settings = SimpleNamespace(steps=lambda epoch: epoch, validations=1)
    optim, batches = (
        from_conf("optim/adamw", lr=1e-3, head_lr=None),
        SimpleNamespace(device="meta", layout=BatchLayout("padded")),
    )
    module = HeadModule(head, from_conf("loss/bradley_terry"), rows, optim, settings, batches, {})
    groups = HeadBank([module]).optimizer.param_groups
    assert {weight.device.type for group in groups for weight in group["params"]} == {"meta"}


def test_a_head_that_was_begun_by_itself_goes_on_so(monkeypatch):
    def state(status, resumable=False):
        return SimpleNamespace(status=status, resumable=resumable)

    monkeypatch.setattr(head_groups, "_key", lambda job: "one")
    jobs = [JobSpec({}, [], {}, directory=Path(f"{n}-x"), number=n) for n in range(3)]
    states = [state("pending"), state("dead", True), state("dead")]
    group, alone = head_groups.group_heads(zip(jobs, states, strict=True))
    assert [job.number for job in group.members] == [0, 2]
    assert alone is jobs[1]
    assert State("dead", Path("3")).resumable is False, "without a checkpoint"
    assert head_groups.group_heads([(jobs[0], states[0])]) == [jobs[0]], "one alone is no group"


def test_what_stands_alone_is_not_trained_together(rmexp):
    done = rmexp("-m", *WORDS, "tune.cache_gib=0", "seed=0,1")
    assert "side by side" not in done.stdout
    done = rmexp("-m", *WORDS, "data.max_length=300,400")
    assert "side by side" not in done.stdout


def test_the_best_head_is_exported_with_its_model(rmexp):
    rmexp.reports = True
    rmexp("-m", *WORDS, "logger=wandb", "seed=0,1")
    (export,) = rmexp.folder.glob("outputs/sweeps/*/*/export")
    (page,) = rmexp.folder.glob("outputs/sweeps/*/*/report.html")  # the others have none
    assert len(list(rmexp.folder.glob("outputs/sweeps/*/*/wandb/offline-run-*/*.wandb"))) == 2
    assert page.parent == export.parent
    assert all(png.stat().st_size for png in page.parent.glob("plots/*.png"))
    text = page.read_text()
    assert f"{result(page.parent)['metrics']['test/accuracy']:.4f}" in text
    scored = rmexp("task=evaluate", "logger=none", f"checkpoint={export.parent}")
    assert scored.returncode == 0
    *_, evaluated = rmexp.runs()
    before, after = result(export.parent)["metrics"], result(evaluated)["metrics"]
    assert after["test/accuracy"] == before["test/accuracy"]
    assert after["test/margin"] == pytest.approx(before["test/margin"], rel=1e-4)
