"""Which labels may be wrong: exact figures of toy models; folds and runs on the command line."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.analysis.inspect.label_doubts import LabelDoubts, doubt_sentences
from rmexp.evaluation.scored_set import EvalLabels
from rmexp.training.out_of_fold import partitions
from tests.conftest import SHORT_DEMO

TINY = ("model=tiny", SHORT_DEMO, "logger=none")


def doubts(*logits, subsets="aaaa"):
    """Models' log odds (rows) of pairs of two responses, each of a prompt of its own."""
    logits_M_P = np.array(logits, dtype=float)
    count = logits_M_P.shape[1]
    each = np.arange(count)
    labels = EvalLabels(
        items_C=each,
        subsets_C=np.array(list(subsets[:count]), dtype=object),
        prompts_C=each,
        weights_C=np.ones(count),
        rows_N=np.repeat(each, 2),
        tokens_N=np.ones(2 * count, dtype=int),
        style_N_S=np.zeros((2 * count, 1), dtype=int),
        ratings_N=np.full(2 * count, np.nan),
        levels_N=np.zeros(2 * count, dtype=int),
        better_P=2 * each,
        worse_P=2 * each + 1,
        weights_P=np.ones(count),
        tied_Q_2=np.zeros((0, 2), dtype=int),
    )
    return LabelDoubts.judged(labels, logits_M_P)


def test_only_models_that_did_not_train_on_a_label_judge_it():
    odds = np.log(4)  # P(right) is 0.8
    found = doubts([odds, np.nan, -odds, np.nan], [odds, -odds, np.nan, np.nan])
    assert found.wrong_P == pytest.approx([0.2, 0.8, 0.8])  # nobody judges the last
    assert found.models_P.tolist() == [2, 1, 1]
    assert found.gaps_P == pytest.approx([odds, -odds, -odds])
    assert found.stds_P[0] == pytest.approx(0)
    assert np.isnan(found.stds_P[1:]).all()
    assert found.labels.better_P.tolist() == [0, 2, 4]


def test_the_most_suspect_label_is_the_one_that_models_are_surest_of():
    found = doubts([3.0, -1.0, -4.0, 0.1], [3.0, 3.0, -2.0, -0.2])
    assert found.order.tolist() == [2, 3, 1, 0]


def test_confident_learning_counts_labels_that_models_are_surer_of_than_on_average():
    right = np.array([0.9, 0.9, 0.4, 0.1])  # mean 0.575: 0.6 against the third counts
    found = doubts(np.log(right / (1 - right)), subsets="aabb")
    assert found.threshold == pytest.approx(0.575)
    everything, a, b = found.shares()
    assert (everything["against"], everything["wrong"]) == (0.5, 0.5)
    assert (a["against"], a["wrong"], b["against"], b["wrong"]) == (0, 0, 1, 1)
    assert everything["against_low"] < 0.5 < everything["against_high"]
    assert [row["pairs"] for row in (everything, a, b)] == [4, 2, 2]
    said = list(doubt_sentences(found, found.shares()))
    assert "1 models that did not train on them agree with 50.0% of 4 labels" in said[0]
    assert "hardly better than chance" in said[1]


@given(st.integers(2, 5), st.integers(0, 20), st.integers(1, 3), st.integers(0, 9))
def test_prompts_are_in_one_fold_and_folds_are_of_equal_size(folds, more, repeats, seed):
    prompts = np.arange(folds + more).repeat(2)
    for part in partitions(prompts, folds, repeats, seed):
        assert (part[::2] == part[1::2]).all()
        sizes = np.bincount(part, minlength=folds)
        assert sizes.min() > 0
        assert sizes.max() - sizes.min() <= 2


def read(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def folded(tmp_path_factory, cache):
    """task=inspect task.folds=2 of the short demo, once for the tests of this module."""
    from tests.conftest import CommandLine

    rmexp = CommandLine(tmp_path_factory.mktemp("folds"), cache)
    done = rmexp("task=inspect", *TINY[:2], "task.folds=2", "task.repeats=2")
    (run,) = rmexp.runs()
    return rmexp, run, done


@pytest.mark.slow
def test_folds_judge_every_training_pair(folded):
    _, run, done = folded
    rows = read(run / "labels.jsonl")
    facts = json.loads((run / "inspect.json").read_text())
    assert len(rows) == facts["splits"]["train"]["pairs"] == facts["labels"]["shares"][0]["pairs"]
    assert {(row["split"], row["models"]) for row in rows} == {("train", 2)}
    assert [row["wrong"] for row in rows] == sorted((row["wrong"] for row in rows), reverse=True)
    first = rows[0]
    assert first["place"].rpartition("/")[2].startswith("short_demo.jsonl:")
    assert min(row["std"] for row in rows) >= 0
    assert "confident learning" in done.stdout
    assert f"data.exclude={run.relative_to(run.parents[2])}/labels.jsonl" in done.stdout
    page = (run / "inspect.html").read_text()
    assert "Labels that may be wrong" in page
    assert page.count('class="sides"') == len(facts["labels"]["examples"]) > 0


@pytest.mark.slow
def test_the_file_of_labels_trains_and_is_recorded(folded, cache):
    rmexp, run, _ = folded
    rows = read(run / "labels.jsonl")
    file = run / "labels.jsonl"
    suspects = sum(row["wrong"] > 0.5 for row in rows)
    rmexp(*TINY, "trainer.max_steps=1", f"data.exclude={file}", "name=without")
    (made,) = (path for path in rmexp.runs() if path.name.endswith("without"))
    result = json.loads((made / "result.json").read_text())
    assert result["corrections"]["exclude"]["labels"] == suspects
    assert result["kinds"]["pairs"] == len(rows) - suspects
    report = json.loads((made / "environment.json").read_text())["data"]
    changed = sum(sum(report["relabelled"][cause].values()) for cause in report["relabelled"])
    assert 0 < changed <= suspects


@pytest.mark.slow
def test_runs_judge_the_rows_of_their_val_and_test(folded):
    rmexp, *_ = folded
    quick = (*TINY, "trainer.max_steps=2", "tune=head", "sweep.export=none")
    splits = ("data.fields.split=null", "data.val_share=0.2", "data.test_share=0.3")
    rmexp("-m", *quick, *splits, "data.split_seed=0,1", "hydra.sweep.dir=two")
    done = rmexp("task=inspect", *TINY[:2], "task.runs=two", "name=judged")
    (run,) = (path for path in rmexp.runs() if path.name.endswith("judged"))
    rows = read(run / "labels.jsonl")
    assert {row["models"] for row in rows} == {1, 2}
    unseen = set()
    for home in (rmexp.folder / "two").glob("*/predictions"):
        unseen |= ids(home / "val.parquet") | ids(home / "test.parquet")
    assert {row["id"] for row in rows} == unseen
    assert "labels have no model that did not train on them" in done.stdout

    done = rmexp("task=inspect", *TINY[:2], "task.runs=two", "task.folds=2", check=False)
    assert "both judge the labels: leave out one of them" in done.stderr


def ids(file):
    import pyarrow.parquet

    return set(pyarrow.parquet.read_table(file, columns=["id"])["id"].to_pylist())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("task.folds=2", "task.runs=nowhere"), "runs=nowhere: there is no such"),
        (("task.folds=99",), "task.folds=99: the training rows with pairs have"),
        (("task.folds=1",), "task.folds=1: should be a whole number of 2 or more"),
        (("task.folds=2", "data.min_rating_gap=null"), "leave out task.folds"),
        (("task.folds=2", "loss=focal"), "does not use loss"),
    ],
)
def test_what_cannot_judge_is_refused(rmexp, words, reason):
    done = rmexp("task=inspect", *TINY[:2], *words, check=False)
    assert done.returncode == 1
    assert reason in done.stderr
