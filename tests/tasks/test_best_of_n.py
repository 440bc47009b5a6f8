"""task=best_of_n: models that choose among samples, by files and by a run."""

import csv
import json

import numpy as np
import pytest

from tests.conftest import SHORT_DEMO, CommandLine, result


def write(folder, name, rows):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Samples of 12 prompts x 6, a gold, a reward near it and a random one."""
    folder, rng = tmp_path_factory.mktemp("choices"), np.random.default_rng(0)
    samples, gold = [], rng.normal(size=(12, 6))
    for p in range(12):
        for k in range(6):
            text = "word " * int(1 + k + p % 3)
            samples.append({"id": f"p{p}", "prompt": f"question {p}", "response": text})
    write(folder, "samples.jsonl", samples)
    for name, values in (
        ("gold", gold), ("near", gold + 0.1 * rng.normal(size=gold.shape)),
        ("random", rng.normal(size=gold.shape)),
    ):  # fmt: skip
        rows = [
            {"id": f"p{p}", "response": k, "reward": float(values[p, k])}
            for p in range(12)
            for k in range(6)
        ]
        write(folder, f"{name}.jsonl", rows[:-6] if name == "gold" else rows)
    return folder


def words(folder, *more):
    near, random = folder / "near.jsonl", folder / "random.jsonl"
    return (
        "task=best_of_n", f"data.path={folder}/samples.jsonl", f"runs=[{near},{random}]",
        f"task.gold={folder}/gold.jsonl", "aggregate=[mean,min]", *more,
    )  # fmt: skip


@pytest.mark.slow
def test_files_of_rewards(tmp_path, cache, folder):
    rmexp = CommandLine(tmp_path, cache, reports=True)
    done = rmexp(*words(folder))
    assert "near chooses better than random" in done.stdout
    assert "1 of 12 prompts have no gold reward" in done.stdout
    (run,) = rmexp.runs()
    facts = result(run)
    assert facts["best_of_n"]["prompts"] == 11
    assert set(facts["best_of_n"]["choosers"]) == {"near", "random", "mean", "min"}
    with open(run / "curves.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 5 * 6
    blind = [row for row in rows if row["n"] == "1"]
    assert np.ptp([float(row["gold"]) for row in blind]) < 1e-12
    assert [float(row["win_rate"]) for row in blind] == pytest.approx([0.5] * 5)
    assert [float(row["kl"]) for row in blind] == [0.0] * 5
    page = (run / "report.html").read_text()
    assert "near chooses better than random" in page
    assert page.count("<svg") == 4
    assert {file.name for file in (run / "plots").iterdir()} == {
        "overoptimisation.png", "gold.png", "win-rate.png", "length.png",
    }  # fmt: skip


@pytest.mark.slow
def test_a_run_chooses_once_and_the_ratings_are_the_gold(rmexp, cache, folder):
    head = ("head=ensemble", "head.members=3")
    rmexp("model=tiny", "logger=none", SHORT_DEMO, "data.limit=40", "trainer.max_steps=2", *head)
    run = rmexp.runs()[0]
    command = (
        "task=best_of_n", f"data.path={folder}/samples.jsonl", f"runs={run}", "task.gold=ratings",
        f"data.format.rewards={folder}/gold.jsonl",
    )  # fmt: skip
    first = rmexp(*command)
    assert "responses scored" in first.stdout
    assert run.name in first.stdout
    again = rmexp(*command)
    assert "responses scored" not in again.stdout
    assert result(rmexp.runs()[1])["verdicts"] == result(rmexp.runs()[2])["verdicts"]
    done = rmexp(*command, "aggregate=[mean,min]")  # over the members of its head
    assert "responses scored" not in done.stdout
    found = result(rmexp.runs()[-1])["best_of_n"]["choosers"]
    assert set(found) == {run.name, "mean", "min"}
    assert found["min"] != found["mean"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["task.gold=nowhere"], "task.gold=nowhere: there is no such run, directory or file"),
        (["runs=nowhere"], "runs=nowhere: there is no such file or directory"),
        (["task.gold={}/near.jsonl"], "is in runs too: the gold may not choose"),
        (["task.gold=ratings"], "task.gold=ratings: no row has a rating for each"),
        (["runs={}/near.jsonl"], "aggregate=mean needs two runs or more"),
        (["aggregate=max"], "aggregate=max: should be"),
        (["data=demo", "aggregate=null"], "No comparison has a reward for each of its"),
    ],
)
def test_mistakes_are_one_sentence(rmexp, folder, more, sentence):
    given = [word.format(folder) for word in more]
    keys = {word.split("=")[0] for word in given}
    kept = [word for word in words(folder) if word.split("=")[0] not in keys]
    if "data" in keys:
        kept = [word for word in kept if not word.startswith("data.path")]
    done = rmexp(*kept, *given, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr


def test_gold_is_needed(rmexp, folder):
    done = rmexp(*[w for w in words(folder) if not w.startswith("task.gold")], check=False)
    assert "task.gold is needed: give task.gold=VALUE" in done.stderr
