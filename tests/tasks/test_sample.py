"""task=sample: responses to distinct prompts, the same file after a kill, data for other tasks."""

import json
import signal

import pyarrow.parquet
import pytest

from tests.conftest import CommandLine, result
from tests.helpers.policies import tiny_policy

pytestmark = pytest.mark.slow

STOP = """
import os, signal
from rmexp.policy import sample_file

before, batches = sample_file.SampleFile.append, [0]
def append(self, *rows):
    batches[0] += 1
    if batches[0] == 3:
        with open(self.partial, "ab") as stream:
            stream.write(b'{"id": "half a li')
        os.kill(os.getpid(), signal.SIGKILL)
    before(self, *rows)
sample_file.SampleFile.append = append
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny policy, and rows of which two have the same prompt and one fills the context."""
    folder = tmp_path_factory.mktemp("sampled")
    tiny_policy(folder / "policy")
    prompts = ["one", "two " * 9, "one", "three", "long " * 200, "four", "five"]
    rows = [{"prompt": text, "chosen": "a", "rejected": "b"} for text in prompts]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def words(folder, out, *more):
    return (
        "task=sample", f"policy={folder}/policy", "data=jsonl", f"data.path={folder}/rows.jsonl",
        "trainer.precision=32-true", "task.k=3", "task.max_new_tokens=8", "task.batch_size=3",
        f"out={out}", *more,
    )  # fmt: skip


def test_a_killed_run_resumes_to_the_same_file(rmexp, folder, fork_server):
    done = rmexp(*words(folder, "whole.parquet"))
    assert "15 responses to 5 prompts" in done.stdout
    assert "1 dropped: prompts that fill the context: fewer than 8 of 512 tokens" in done.stdout
    killed = fork_server.run(rmexp.folder, words(folder, "cut.parquet"), first=STOP)
    assert killed == -signal.SIGKILL
    assert not (rmexp.folder / "cut.parquet").exists()
    again = rmexp(*words(folder, "cut.parquet"))
    assert "resuming after 6 responses" in again.stdout
    whole, cut = (
        pyarrow.parquet.read_table(rmexp.folder / f"{name}.parquet") for name in ("whole", "cut")
    )
    assert whole == cut
    assert whole.column_names == ["id", "prompt", "response", "tokens", "logprob"]
    rows = whole.to_pylist()
    assert [row["id"] for row in rows[::3]] == ["row-1", "row-2", "row-4", "row-6", "row-7"]
    assert rows[0]["prompt"] == [{"role": "user", "content": "one"}]
    assert all(1 <= row["tokens"] <= 8 and row["logprob"] < 0 for row in rows)
    facts = result(rmexp.runs()[0])
    assert (facts["prompts"], facts["responses"]) == (5, 15)
    mean = sum(row["tokens"] for row in rows) / 15
    assert facts["tokens_per_response"] == pytest.approx(mean, abs=0.1)


def test_samples_are_scored_rated_and_trained_on(tmp_path, cache, folder):
    rmexp = CommandLine(tmp_path, cache)
    rmexp(*words(folder, "samples.jsonl"))
    tiny = ("model=tiny", "logger=none", "trainer.max_steps=2")
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    gold = "".join(
        json.dumps({"id": row["id"], "response": n % 3, "reward": len(row["response"])}) + "\n"
        for n, row in enumerate(rows)
    )
    (tmp_path / "gold.jsonl").write_text(gold)
    rmexp(
        "data=samples", "data.path=samples.jsonl", "data.format.rewards=gold.jsonl",
        "data.format.pairs=2", "data.test_share=0", "data.val_share=0.3", *tiny,
    )  # fmt: skip
    run = rmexp.runs()[-1]
    rmexp(
        "task=score", f"checkpoint={run}", "data=samples", "data.path=samples.jsonl",
        "out=rewards.jsonl",
    )  # fmt: skip
    scored = [json.loads(line) for line in (tmp_path / "rewards.jsonl").read_text().splitlines()]
    assert [(row["id"], row["response"]) for row in scored] == [
        (row["id"], n % 3) for n, row in enumerate(rows)
    ]
    done = rmexp(
        "task=inspect", "model=tiny", "data=samples", "data.path=samples.jsonl",
        "data.format.rewards=rewards.jsonl",
    )  # fmt: skip
    assert "5 rows" in done.stdout
    assert "labels: pairs, ratings, lists" in done.stdout


def test_prompts_with_tools_are_stored_as_json(rmexp, folder):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    row = {"prompt": "one", "response": "a", "tools": tools}
    (rmexp.folder / "tools.jsonl").write_text(json.dumps(row) + "\n")
    rmexp(*words(folder, "out.parquet", "data.path=tools.jsonl"))
    (first, *_) = pyarrow.parquet.read_table(rmexp.folder / "out.parquet").to_pylist()
    assert json.loads(first["tools"]) == tools
    assert first["prompt"] == [{"role": "user", "content": "one"}]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["policy=nowhere/x/y"], "policy=nowhere/x/y: there is no such directory"),
        (["task.k=0"], "task.k=0: should be"),
        (["out=out.txt"], "name a file that ends in .jsonl or .parquet"),
        (["data.max_length=9"], "No prompt can be answered: 6 dropped: prompts that fill"),
        (["loss=ties"], "task=sample does not use loss"),
    ],
)
def test_mistakes_are_one_sentence(rmexp, folder, more, sentence):
    done = rmexp(*words(folder, "out.parquet", *more), check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
