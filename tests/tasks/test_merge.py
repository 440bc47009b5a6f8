"""task=merge: seeds of a sweep, as one run beside them."""

import json
import re

import pytest
import torch

from rmexp.inference.checkpoint import load_scorer
from tests.conftest import SHORT_DEMO, CommandLine, result
from tests.helpers.run_directories import margin, write_run

pytestmark = pytest.mark.slow

TRAIN = ("model=tiny", "logger=none", SHORT_DEMO, "data.limit=40", "trainer.max_steps=2")


@pytest.fixture(scope="module")
def home(tmp_path_factory, cache):
    """A sweep of two seeds with LoRA: one has an export, the other only its checkpoint."""
    rmexp = CommandLine(tmp_path_factory.mktemp("merge"), cache)
    sweep = ("tune=lora", "tune.rank=2", "optim.lr=0.01", "hydra.sweep.dir=sweep")
    rmexp("-m", *TRAIN, *sweep, "seed=0,1")
    rmexp("task=merge", "runs=sweep", "logger=none", "task.weights=[3,1]", "hydra.run.dir=merged")
    rmexp("task=evaluate", "checkpoint=merged", "logger=none", "task.probes=false",
          "hydra.run.dir=again")  # fmt: skip
    return rmexp


def test_the_weights_are_the_weighted_mean(home):
    folder = home.folder
    first, second = (folder / "sweep" / name for name in ("0-seed-0", "1-seed-1"))
    assert {(one / "export").is_dir() for one in (first, second)} == {True, False}
    a, b, merged = (
        load_scorer(path).model.state_dict() for path in (first, second, folder / "merged")
    )
    assert a.keys() == merged.keys()
    for name, value in merged.items():
        torch.testing.assert_close(value, 0.75 * a[name] + 0.25 * b[name])
    assert any(not torch.equal(a[name], b[name]) for name in a if "q_proj" in name)


def test_it_is_a_run_of_its_own(home):
    merged, facts = home.folder / "merged", result(home.folder / "merged")
    assert facts["status"] == "done"
    assert facts["merge_weights"] == [0.75, 0.25]
    assert [path.rsplit("/", 1)[-1] for path in facts["merged"]] == ["0-seed-0", "1-seed-1"]
    assert json.loads((merged / "calibration.json").read_bytes())["pairs"] > 0
    assert (merged / "predictions" / "test.parquet").is_file()
    metrics = result(home.folder / "again")["metrics"]
    assert metrics["test/accuracy"] == facts["metrics"]["test/accuracy"]
    assert metrics["test/reward_mean"] == pytest.approx(facts["metrics"]["test/reward_mean"])


def test_it_stands_beside_its_members_and_their_ensemble(home):
    said = result(home.folder / "merged")["comparison"]
    assert len(said) == 3
    assert sum("mean of 2 runs" in sentence for sentence in said) == 2
    assert sum("merged=2 runs" in sentence for sentence in said) == 2
    done = home("task=compare", "runs=[merged,sweep]", "aggregate=[mean,lcb]", "lcb_lambda=1")
    for name in ("merged=2 runs", "mean of 2 runs", "lcb of 2 runs", "(and 1 more seeds)"):
        assert name in done.stdout


def test_merged_runs_merge(home):
    home("task=merge", "runs=[merged,sweep/0-seed-0]", "logger=none", "hydra.run.dir=more")
    assert result(home.folder / "more")["status"] == "done"


def test_interrupted_it_leaves_nothing_half_written(home, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rmexp.inference.export.verify_export", stop)
    words = ("task=merge", "runs=sweep", "logger=none", "hydra.run.dir=stopped")
    assert home(*words, check=False).returncode != 0
    stopped = home.folder / "stopped"
    assert result(stopped)["status"] == "failed"
    assert not (stopped / "export").exists()
    assert not list(stopped.glob(".writing-*"))


@pytest.fixture(scope="module")
def others(home):
    """Runs that do not fit: written by hand, from the configuration of one that does."""
    folder, first = home.folder, home.folder / "sweep" / "0-seed-0"
    for name, part, to in (
        ("tuned", "config.yaml", ("rank: 2", "rank: 4")),
        ("based", "config.yaml", ("hidden: 32", "hidden: 64")),
        ("rendered", "environment.json", None),
        ("fed", "environment.json", None),
        ("bare", "config.yaml", ("", "")),
    ):
        one = folder / "others" / name
        one.mkdir(parents=True)
        for file in ("config.yaml", "environment.json", "result.json", "overrides.yaml"):
            (one / file).write_text((first / file).read_text())
        if to is not None:
            assert to[0] in (one / part).read_text()
            (one / part).write_text((one / part).read_text().replace(*to))
        else:
            facts = json.loads((one / part).read_text())
            if name == "fed":
                facts["data_fingerprint"] = "other"
            else:
                facts["template"]["fingerprint"] = "other"
            (one / part).write_text(json.dumps(facts))
    for value in (1.0, 2.0):
        for seed in (0, 1):
            write_run(folder / "grid" / f"{value}-{seed}", [1, 0], config=margin(value, seed),
                      given=[f"loss.margin={value}", f"seed={seed}"])  # fmt: skip
    write_run(folder / "broken", [1, 0], status="failed", error="it burnt")
    return home


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["runs=sweep/0-seed-0"], "task=merge needs two runs or more"),
        (["runs=[sweep,others/tuned]"], "tuned cannot be merged with .*0-seed-0: its tune.rank is"),
        (["runs=[sweep,others/based]"], "its model.hidden is 64, not 32"),
        (["runs=[sweep,others/rendered]"], "its template or tokenizer is another"),
        (["runs=[sweep,others/fed]"], "it was trained on other data, whose rows may be among"),
        (["runs=[sweep,others/bare]"], "others/bare has no weights any more"),
        (["runs=[sweep,broken]"], "broken cannot be merged, it burnt"),
        (["runs=[sweep,again]"], "is no trained run, which has weights"),
        (["runs=grid"], r"2 settings.* task.setting=loss.margin=1.0, or task.setting=loss.mar"),
        (["runs=grid", "task.setting=loss.margin=3"], "no run of grid has it; task.setting=loss"),
        (["runs=sweep", "task.weights=[1]"], "give a weight for each of the 2 runs"),
        (["runs=sweep", "task.weights=[1,-1]"], "should be"),
        (["runs=sweep", "template=chatml"], "The runs bring their own template: leave out"),
        (["runs=sweep", "tune=full"], "The runs bring their own tune: leave out tune"),
        ([], "task=merge needs runs="),
    ],
)
def test_what_cannot_be_merged_is_one_sentence(others, words, sentence):
    done = others("task=merge", *words, check=False)
    assert done.returncode == 1
    assert re.search(sentence, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
