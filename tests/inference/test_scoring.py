"""task=score and rmexp.load: every response in order, whatever happens on the way."""

import json
import os
import signal

import pyarrow.parquet
import pytest

import rmexp as package
from rmexp.core.errors import UserError
from rmexp.inference import score_file, scorer
from tests.conftest import SHORT_DEMO, CommandLine, result

pytestmark = pytest.mark.slow

STOP = """
import os, signal
from rmexp.inference import score_file

score_file.SORT_WINDOW = 8
before, windows = score_file.ScoreFile.append, [0]
def append(self, *rows):
    windows[0] += 1
    if windows[0] == 3:
        with open(self.partial, "ab") as stream:
            stream.write(b'{"id": "half a li')
        os.kill(os.getpid(), signal.SIGKILL)
    before(self, *rows)
score_file.ScoreFile.append = append
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """A trained tiny model."""
    rmexp = CommandLine(tmp_path_factory.mktemp("trained"), cache)
    rmexp("model=tiny", "logger=none", SHORT_DEMO, "data.limit=40", "optim.lr=1e-3")
    return rmexp.runs()[0]


def rows(count):
    """Pairs, lists and single responses of varied lengths, some with ids."""
    for n in range(count):
        text = "word " * (n * 7 % 23 + 1)
        yield [
            {"id": f"pair {n}", "prompt": text, "chosen": "yes " * n + ".", "rejected": "no"},
            {"prompt": text, "responses": ["a" * (n + 1), "b", "a" * (n + 1)]},
            {"prompt": [{"role": "user", "content": text}], "response": f"answer {n}"},
            {"messages": [
                {"role": "user", "content": text}, {"role": "assistant", "content": "well"},
            ]},
        ][n % 4]  # fmt: skip


def words(run, path, out, *more):
    return (
        "task=score", f"checkpoint={run}", f"data.path={path}", f"out={out}",
        "trainer.precision=32-true", *more,
    )  # fmt: skip


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_rewards_come_in_the_order_of_the_rows_and_equal_single_scores(rmexp, run, write_rows):
    given = list(rows(40))
    rmexp(*words(run, write_rows(given), "out.jsonl"))
    found = lines(rmexp.folder / "out.jsonl")
    model = package.load(run, precision="32-true")
    assert model.layout == "mixed"
    expected = []
    for number, row in enumerate(given, 1):
        prompt, answers = row.get("prompt"), row.get("responses") or [
            row[name] for name in ("chosen", "rejected", "response") if name in row
        ]  # fmt: skip
        if "messages" in row:
            prompt, answers = row["messages"][:1], [row["messages"][1:]]
        for k, reward in enumerate(model.score(prompt, answers)):
            expected.append((row.get("id", f"row-{number}"), k, reward))
    assert [(line["id"], line["response"]) for line in found] == [(i, k) for i, k, _ in expected]
    assert [line["reward"] for line in found] == pytest.approx([r for *_, r in expected], abs=1e-5)
    assert result(rmexp.runs()[0])["responses"] == len(expected)
    assert not list(rmexp.folder.glob("*.partial*"))


def test_a_killed_run_goes_on_and_gives_the_same_file(rmexp, run, write_rows, fork_server):
    path = write_rows(rows(60))
    rmexp(*words(run, path, "whole.jsonl", "data.micro_batch_tokens=500"))
    killed = fork_server.run(rmexp.folder, words(run, path, "cut.jsonl"), first=STOP)
    assert killed == -signal.SIGKILL
    assert not (rmexp.folder / "cut.jsonl").exists()
    assert (rmexp.folder / "cut.jsonl.partial").read_text().endswith("half a li")
    done = rmexp(*words(run, path, "cut.jsonl"))
    assert "resuming after" in done.stdout
    whole, cut = lines(rmexp.folder / "whole.jsonl"), lines(rmexp.folder / "cut.jsonl")
    assert [(a["id"], a["response"]) for a in whole] == [(b["id"], b["response"]) for b in cut]
    assert [a["reward"] for a in whole] == pytest.approx([b["reward"] for b in cut], abs=1e-5)


def test_what_was_begun_with_other_rows_is_not_gone_on_with(rmexp, run, write_rows, fork_server):
    fork_server.run(rmexp.folder, words(run, write_rows(rows(60)), "out.jsonl"), first=STOP)
    done = rmexp(*words(run, write_rows(rows(50)), "out.jsonl"), check=False)
    assert done.returncode == 1
    assert "was started with another checkpoint, data or setting" in done.stderr


def test_parquet(rmexp, run, write_rows):
    path = write_rows(rows(20))
    rmexp(*words(run, path, "out.parquet"))
    rmexp(*words(run, path, "out.jsonl"))
    table = pyarrow.parquet.read_table(rmexp.folder / "out.parquet")
    assert table.column_names == ["id", "response", "reward"]
    for one, two in zip(table.to_pylist(), lines(rmexp.folder / "out.jsonl"), strict=True):
        assert one == two | {"reward": pytest.approx(two["reward"], abs=1e-6)}


def test_bad_and_long_rows_are_said(rmexp, run, write_rows):
    given = [{"prompt": "p", "response": "short"}, {"prompt": "p", "response": "long " * 99}]
    path = write_rows([*given, {"prompt": "p"}])
    done = rmexp(*words(run, path, "out.jsonl"), check=False)
    assert "rows.jsonl:3: no layout has these columns" in done.stderr
    assert not (rmexp.folder / "out.jsonl").exists()
    skipping = ("data.on_bad_row=skip", "data.max_bad_share=0.5", "data.max_length=100")
    done = rmexp(*words(run, path, "out.jsonl", *skipping))
    assert [line["reward"] is None for line in lines(rmexp.folder / "out.jsonl")] == [False, True]
    assert "1 dropped: longer than 100 tokens" in done.stdout
    assert "1 bad: no layout has these columns" in done.stdout


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("out.txt", r"name a file that ends in .jsonl or .parquet"),
        ("rows.jsonl", r"exists; remove it"),
        ("nowhere/out.jsonl", r"there is no folder nowhere"),
    ],
)
def test_where_nothing_can_be_written(rmexp, run, write_rows, out, sentence):
    done = rmexp(*words(run, write_rows(rows(4)), out), check=False)
    assert done.returncode == 1
    assert sentence in done.stderr


def test_memory_holds_one_window(run, write_rows, monkeypatch):
    """What was scored is let go: no more comparisons are alive than a window has."""
    import weakref

    seen, most = [], []
    before = scorer.Scorer.comparisons

    def watched(self, comparisons, report):
        seen.extend(map(weakref.ref, comparisons))
        most.append(sum(ref() is not None for ref in seen))
        return before(self, comparisons, report)

    monkeypatch.setattr(score_file, "SORT_WINDOW", 10)
    monkeypatch.setattr(scorer.Scorer, "comparisons", watched)
    path = write_rows(rows(80))
    rmexp = CommandLine(run.parent, run.parent)
    rmexp(*words(run, path, f"{path}.scores.jsonl"))
    assert len(most) == 8
    assert max(most) <= 20


def test_load_says_what_cannot_be_scored(run):
    model = package.load(run)
    with pytest.raises(UserError, match="prompt is empty"):
        model.score(" ", ["a"])
    with pytest.raises(UserError, match=r"responses\[1\] is empty"):
        model.score("a", ["b", ""])
    with pytest.raises(UserError, match="at least one response"):
        model.score("a", [])
    with pytest.raises(UserError, match="longer than 40 tokens"):
        package.load(run, max_length=40).score("a", ["b" * 50])
    with pytest.raises(UserError, match="no such directory"):
        package.load("nowhere")


def test_a_run_without_an_export_is_scored_from_its_checkpoint(run, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("export"))
    ours = package.load(copy, precision="32-true").score("Hi", ["a", "bb"])
    theirs = package.load(run, precision="32-true").score("Hi", ["a", "bb"])
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert os.path.isdir(run / "export")


def test_bad_rows_can_be_skipped_after_the_stop(rmexp, run, write_rows, monkeypatch):
    """What was scored before a bad row is not scored again."""
    monkeypatch.setattr(score_file, "SORT_WINDOW", 8)
    path = write_rows([*rows(20), {"prompt": "p"}, *rows(4)])
    stopped = rmexp(*words(run, path, "out.jsonl"), check=False)
    assert "rows.jsonl:21" in stopped.stderr
    skipping = ("data.on_bad_row=skip", "data.max_bad_share=0.5")
    done = rmexp(*words(run, path, "out.jsonl", *skipping))
    assert "resuming after" in done.stdout
    assert len({line["id"] for line in lines(rmexp.folder / "out.jsonl")}) == 24


def test_a_partial_file_that_is_gone_begins_anew(rmexp, run, write_rows, fork_server):
    path = write_rows(rows(60))
    fork_server.run(rmexp.folder, words(run, path, "out.jsonl"), first=STOP)
    (rmexp.folder / "out.jsonl.partial").unlink()
    rmexp(*words(run, path, "out.jsonl"))
    rmexp(*words(run, path, "whole.jsonl"))
    one, two = (lines(rmexp.folder / name) for name in ("out.jsonl", "whole.jsonl"))
    assert [(a["id"], a["response"]) for a in one] == [(b["id"], b["response"]) for b in two]


def test_many_responses_to_one_prompt_are_packed_into_the_budget(run, monkeypatch):
    sizes = []
    before = scorer.compute_outputs

    def watched(model, batch):
        trees = batch.trees or ()
        sizes.append(sum(tree.size for tree in trees) or batch.tokens_R_T.numel())
        return before(model, batch)

    monkeypatch.setattr(scorer, "compute_outputs", watched)
    model = package.load(run, precision="32-true")
    model.micro_batch_tokens = 400
    answers = [f"answer {n} " * (n % 5 + 1) for n in range(60)]
    many = model.score("Which?", answers)
    assert len(sizes) >= 5
    assert max(sizes) <= 400
    assert many[7] == pytest.approx(model.score("Which?", answers[7:8])[0], abs=1e-5)


def test_what_is_no_reward_model_is_said(rmexp, run, write_rows):
    path = write_rows(rows(4))
    rmexp(*words(run, path, "out.jsonl"))
    scored = rmexp.runs()[-1]
    done = rmexp(*words(scored, path, "again.jsonl"), check=False)
    assert "neither a run with an export or a checkpoint" in done.stderr
