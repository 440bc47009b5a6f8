"""Leave one group out: rows dealt by folds, and runs over folds judged as one setting."""

import csv
import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.analysis.compare.comparison_report import compare_runs
from rmexp.analysis.compare.tables import write_csv
from rmexp.config.compose import compose_config
from rmexp.config.schema import register
from rmexp.data.formats.fold_group import FoldGroup
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport
from rmexp.data.splits import Fold, SplitPolicy
from rmexp.tracking.predictions import JUDGEMENTS, PREDICTIONS
from tests.conftest import SHARED, needs, result
from tests.data.test_data_options import named
from tests.helpers.run_directories import margin, write_parquet, write_run

register()
UKP = SHARED / "ukp_convarg1" / "pairs.jsonl.gz"
RANKING = SHARED / "ukp_convarg1" / "ranked_arguments.jsonl.gz"


def deal(groups, fold, prompts=None, share=0.25):
    """The splits of rows with these groups, as lists, and what was held out."""
    prompts = prompts or [f"p{n}" for n in range(len(groups))]
    nothing = [None] * len(groups)
    policy = SplitPolicy({"val": share, "test": 0.1}, 0, fold)
    report = RowReport()
    splits, facts = policy.assign(prompts, nothing, ["all"] * len(groups), groups, report)
    return {name: rows.tolist() for name, rows in splits.items()}, facts, report


# ----------------------------------------------------------------------- data
@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40), st.integers(0, 7))
def test_a_fold_holds_out_one_group_whole_and_nothing_else(groups, number):
    names = sorted(set(groups))
    if len(names) < 3 or number >= len(names):
        return
    splits, facts, _ = deal(groups, Fold("g", number))
    assert facts["held_out"] == names[number]
    assert facts["of"] == len(names)
    assert splits["test"] == [n for n, g in enumerate(groups) if g == names[number]]
    assert sorted(itertools.chain(*splits.values())) == list(range(len(groups)))
    if facts["val"]:  # val is whole groups too
        assert {groups[n] for n in splits["val"]} == set(facts["val"])
        assert not set(facts["val"]) & {groups[n] for n in splits["train"]}


def test_val_is_other_groups_drawn_anew_for_each_fold():
    groups = [f"side{n:02}" for n in range(32) for _ in range(2)]
    chosen = [deal(groups, Fold("g", n), share=0.1)[1]["val"] for n in range(32)]
    assert {len(val) for val in chosen} == {3}
    assert len(set(itertools.chain(*chosen))) > 25, "no group is spared training in all folds"
    assert chosen[5] == deal(groups, Fold("g", 5), share=0.1)[1]["val"]


def test_of_few_groups_none_goes_to_val_which_is_cut_by_prompt():
    groups = ["de"] * 20 + ["en"] * 20
    splits, facts, _ = deal(groups, Fold("language", 1), share=0.25)
    assert (facts["held_out"], facts["val"]) == ("en", [])
    assert splits["test"] == list(range(20, 40))
    assert (len(splits["val"]), len(splits["train"])) == (5, 15)


def test_a_group_may_be_the_beginning_of_a_value():
    groups = ["cats_yes", "cats_no", "dogs_yes", "dogs_no", "fish"]
    splits, facts, _ = deal(groups, Fold("subset", 1, "_"))
    assert (facts["held_out"], facts["of"], splits["test"]) == ("dogs", 3, [2, 3])


def test_a_prompt_of_the_held_out_group_is_in_no_other_split():
    groups = ["a", "b", "c", "c"]
    splits, _, report = deal(groups, Fold("g", 0), ["p", "p", "q", "r"], share=0.0)
    assert (splits["test"], splits["train"]) == ([0], [2, 3])
    assert report.dropped == {"a train prompt that is also in test": {"all": 1}}


ROWS = [
    {
        "prompt": f"{debate} {side} {n}?",
        "chosen": f"a good reason {n}",
        "rejected": f"a bad one {n}",
        "debate": debate,
        "side": f"{debate}_{side}",
        "votes": [1, 2],
    }
    for debate in ("cats", "dogs", "fish", "mice")
    for side in ("no", "yes")
    for n in range(4)
]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("data.fold_by=side", "data.fold=8"),
            "data.fold=8: data.fold_by=side has 8 values here, so",
        ),
        (
            ("data.fold_by=sides", "data.fold=0"),
            "data.fold_by=sides: the row has nothing there (did",
        ),
        (
            ("data.fold_by=votes", "data.fold=0"),
            "data.fold_by=votes: the row has a list there; fol",
        ),
        (
            ("data.fold_by=subset", "data.fold=0"),
            "data.fold_by=subset has one value here (all): not",
        ),
        (
            ("data.fold_until=_",),
            "data.fold_until=_ shortens the names of groups, but there are",
        ),
        (("data.fold=0",), "data.fold=0 is the number of a group, but there are no groups"),
        (
            ("data.fold_by=side", "data.fold=0", "data.test_path=x.jsonl"),
            "leave out data.test_path.",
        ),
        (
            ("data.fold_by=side", "data.fold=-1"),
            "data.fold=-1: should be a whole number of 0 or more",
        ),
    ],
)
def test_what_cannot_be_a_fold_is_said_in_a_sentence(rmexp, write_rows, words, said):
    path = write_rows(ROWS)
    done = rmexp(
        "model=tiny", "logger=none", "data=jsonl", f"data.path={path}", *words, check=False
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_row_without_the_column_is_named_by_its_place(rmexp, write_rows):
    path = write_rows([*ROWS, {k: v for k, v in ROWS[0].items() if k != "side"}])
    words = (f"data.path={path}", "data.fold_by=side", "data.fold=0")
    done = rmexp("model=tiny", "logger=none", "data=jsonl", *words, check=False)
    assert (
        f"{path}:33: data.fold_by=side: the row has nothing there; its columns are" in done.stderr
    )


# ----------------------------------------------------------------- comparison
def fold_run(home, held_out, wins, ids, fold=0, of=8, **facts):
    """The run of a fold, judged on the pairs `ids` of the prompt `held_out`."""
    config = facts.pop("config", margin(1.0)) | {"data": {"fold": fold, "fold_by": "side"}}
    write_run(
        home,
        wins,
        [held_out] * len(wins),
        ids=ids,
        config=config,
        fold={"by": "side", "until": None, "number": fold, "of": of, "held_out": held_out},
        **facts,
    )
    return home


def folds(folder, wins_of, count=8, seeds=(0,), without=(), sizes=(2, 3)):
    """Runs of settings (margin -> wins of the pair n of a fold) over folds of unequal size."""
    for value, wins in wins_of.items():
        for seed in seeds:
            for n in (n for n in range(count) if (value, n) not in without):
                pairs = [wins(n, k) for k in range(sizes[n % len(sizes)])]
                fold_run(
                    folder / f"m{value}-s{seed}-f{n}",
                    f"side{n}",
                    pairs,
                    [f"side{n}-{k}" for k in range(len(pairs))],
                    n,
                    count,
                    config=margin(value, seed),
                    given=[f"loss.margin={value}", f"data.fold={n}", f"seed={seed}"],
                    metrics={"test/pairs": float(len(pairs)), "val/accuracy": 0.5},
                )
    return [str(folder)]


def good(n, k):
    """Right on all pairs but the first of two folds."""
    return 0 if n < 2 and k == 0 else 1


def bad(n, k):
    """Right on the first pair of each fold."""
    return int(k == 0)


def test_folds_are_one_setting_judged_on_their_union(tmp_path):
    found = compare_runs(folds(tmp_path, {1.0: good, 2.0: bad}), "test", "accuracy", "best")
    assert [row.group.name for row in found.rows] == ["loss.margin=1.0", "loss.margin=2.0"]
    best, other = found.rows
    assert len(found.judgements.ids_P) == 20
    assert (best.value, other.value) == (18 / 20, 8 / 20)
    assert other.cost["training_seconds"] == 80.0
    (verdict,) = found.verdicts
    assert verdict.difference.prompts == 8, "a side is a cluster"
    # Sides differ by 0, 1, 1, 2, 1, 2, 1, 2 pairs: only the same signs throughout are as far off.
    assert verdict.p == pytest.approx(2 / 2**7)
    assert any("union of 8 folds" in note and "held-out group" in note for note in found.notes)
    assert not found.skipped


def test_pairs_of_a_group_with_several_prompts_are_one_cluster(tmp_path):
    for n in range(6):
        home = fold_run(tmp_path / f"f{n}", f"debate{n}", [1, 0], [f"{n}-a", f"{n}-b"], n, 6)
        prompts = [f"{n}-yes", f"{n}-no"]
        judged = [(f"{n}-{'ab'[k]}", 0, 1, 1, prompts[k], "all", 1.0) for k in range(2)]
        write_parquet(home / "judgements" / "test.parquet", JUDGEMENTS, judged)
    found = compare_runs([str(tmp_path)], "test", "accuracy", "best")
    assert set(found.judgements.prompts_P) == {f"debate{n}" for n in range(6)}
    (row,) = found.rows
    assert row.value == 0.5, "each group is right on half"
    unseen = 1 - 0.025 ** (1 / 6)  # of 6 equal groups: the share of others that may be unseen
    assert (row.low, row.high) == pytest.approx((0.5 - unseen / 2, 0.5 + unseen / 2))


def test_of_few_folds_prompts_are_the_clusters(tmp_path):
    found = compare_runs(folds(tmp_path, {1.0: good}, count=3), "test", "accuracy", "best")
    assert any("groups are few" in note for note in found.notes)


def test_seeds_are_replicates_over_folds(tmp_path):
    given = folds(tmp_path, {1.0: good, 2.0: bad}, seeds=(0, 1, 2))
    found = compare_runs(given, "test", "accuracy", "best")
    assert [len(row.group.runs) for row in found.rows] == [3, 3]
    assert found.verdicts[0].over_seeds
    assert found.rows[0].value == pytest.approx(18 / 20)


def test_a_fold_that_one_setting_lacks_is_left_out_of_all(tmp_path):
    given = folds(tmp_path, {1.0: good, 2.0: bad}, without={(2.0, 3)})
    found = compare_runs(given, "test", "accuracy", "best")
    assert len(found.judgements.ids_P) == 17
    (left,) = found.skipped
    assert (left.name, left.why) == (
        "fold side3",
        "loss.margin=2.0 lacks this fold, which is left out of all settings",
    )


def test_a_setting_with_less_than_half_of_the_folds_is_left_out(tmp_path):
    given = folds(tmp_path, {1.0: good, 2.0: bad}, without={(2.0, n) for n in range(5)})
    found = compare_runs(given, "test", "accuracy", "best")
    assert len(found.judgements.ids_P) == 20
    assert len(found.rows) == 1
    (left,) = found.skipped
    assert (left.name, left.why.split(":")[0]) == ("loss.margin=2.0", "it has 3 of 8 folds")


def test_a_fold_run_twice_counts_once(tmp_path):
    given = folds(tmp_path, {1.0: good})
    fold_run(tmp_path / "again", "side0", [1, 1], ["side0-0", "side0-1"])
    found = compare_runs(given, "test", "accuracy", "best")
    assert len(found.judgements.ids_P) == 20
    assert [one.why.split(": ")[1] for one in found.skipped] == ["counted once"]


def test_folds_that_share_rows_stay_apart(tmp_path):
    for n in range(2):
        fold_run(tmp_path / f"f{n}", f"side{n}", [1, n], ["a", "b"], n, set="suite")
    for n in range(2):  # the same prompts in both, as in a public suite
        write_run(
            tmp_path / f"f{n}",
            [1, n],
            ["p", "q"],
            ids=["a", "b"],
            set="suite",
            config=margin(1.0) | {"data": {"fold": n, "fold_by": "side"}},
            fold={"by": "side", "until": None, "number": n, "of": 2, "held_out": f"side{n}"},
        )
    found = compare_runs([str(tmp_path)], "suite", "accuracy", "best")
    assert [row.group.name for row in found.rows] == ["data.fold=1", "data.fold=0"]


def test_each_fold_is_standardised_by_its_own_rewards(tmp_path):
    for n, scale in enumerate((1.0, 100.0)):
        fold_run(tmp_path / f"f{n}", f"s{n}", [scale, -scale], [f"{n}a", f"{n}b"], n, 2)
    found = compare_runs([str(tmp_path)], "test", "margin_standardised", "best")
    items = found.rows[0].group.items("margin_standardised")[0]
    assert items[:2].tolist() == pytest.approx(items[2:].tolist())


def test_pairs_of_all_folds_count_by_their_weights(tmp_path):
    given = folds(tmp_path, {1.0: good}, count=2)
    for n, weight in enumerate((3.0, 1.0)):
        pairs = [(f"side{n}-{k}", 0, 1, 1, f"side{n}", "all", weight) for k in range(2 + n)]
        home = tmp_path / f"m1.0-s0-f{n}" / "judgements" / "test.parquet"
        write_parquet(home, JUDGEMENTS, pairs)
    found = compare_runs(given, "test", "accuracy", "best")
    assert found.rows[0].value == pytest.approx((3 + 2) / (6 + 3))


def test_length_and_ranks_are_those_of_all_folds(tmp_path):
    """Side 0: the longer one wins two of two; side 1: none of three. Ranks agree, then disagree."""
    given = folds(tmp_path, {1.0: good}, count=2)
    for n, size in enumerate((2, 3)):
        rows = []
        for k in range(size):
            tokens = (9, 5) if n == 0 else (5, 9)
            gap = 1.0 if good(n, k) else -1.0
            rows += [
                (f"side{n}-{k}", i, "t", (gap, 0.0)[i], "all", tokens[i], None, f"side{n}")
                for i in range(2)
            ]
        ranked = [
            (f"r{n}-{k}", 0, "t", float(k), "r", 5, float((k, -k)[n]), f"side{n}")
            for k in (0, 1, 2)
        ]
        home = tmp_path / f"m1.0-s0-f{n}" / "predictions" / "test.parquet"
        write_parquet(home, PREDICTIONS, rows + ranked)
    found = compare_runs(given, "test", "accuracy", "best")
    besides = found.rows[0].besides
    assert besides["length_baseline"][0] == 2 / 5
    assert besides["spearman_within"][0] == 0.0, "the mean of 1 and -1"
    assert compare_runs(given, "test", "spearman_within", "best").rows[0].low == -1.0


def test_the_csv_has_the_metric_of_each_fold(tmp_path):
    found = compare_runs(folds(tmp_path, {1.0: good, 2.0: bad}), "test", "accuracy", "best")
    write_csv(found, tmp_path / "found.csv")
    first = next(csv.DictReader((tmp_path / "found.csv").read_text().splitlines()))
    assert [float(first[f"test/accuracy in side{n}"]) for n in range(3)] == [1 / 2, 2 / 3, 1.0]
    assert len(first["runs"].split()) == 8


# ------------------------------------------------------------------ real runs
@pytest.mark.slow
def test_a_sweep_over_folds_is_compared_as_settings(rmexp, write_rows):
    path = write_rows(ROWS)
    swept = rmexp(
        *(
            "-m",
            "model=tiny",
            "logger=none",
            "data=jsonl",
            f"data.path={path}",
            "trainer.max_steps=1",
        ),
        *("data.fold_by=side", "data.fold_until=_", "data.fold=0,2", "loss.margin=0.5,1.0"),
        "name=folds",
    )
    runs = rmexp.runs()
    held = [result(run)["fold"] for run in runs]
    assert sorted(fold["held_out"] for fold in held) == ["cats", "cats", "fish", "fish"]
    assert re.search(
        r"\nbest    loss.margin=\S+  \(val/accuracy .*, mean of 2 runs\)\n", swept.stdout
    )
    assert "no export: each run is the model of one fold" in swept.stdout
    assert not any((run / "export").exists() for run in runs)
    assert all(len(fold["val"]) == 0 for fold in held), "a tenth of three groups is none"
    done = rmexp("task=compare", "runs=outputs/sweeps", "logger=none")
    assert "loss.margin" in done.stdout
    assert "union of 2 folds" in done.stdout
    found = compare_runs([str(rmexp.folder / "outputs" / "sweeps")], "test", "accuracy", "best")
    assert len(found.judgements.ids_P) == len(ROWS) / 2
    assert len(found.rows) == 2
    part = next(run for run in runs if result(run)["fold"]["held_out"] == "fish")
    again = rmexp("task=evaluate", f"checkpoint={part}", "task.probes=false", "logger=none")
    assert "test is fish" in again.stdout


@pytest.fixture(scope="module")
def debates():
    """(group, prompt key) of each pair of UKP, and of each side that has ranks alone."""
    groups, prompts, seen = [], [], set()
    for option, file in (("ukp", UKP), ("ukp_ranked", RANKING)):
        parse = FoldGroup(named(option), "subset")
        for one in read_comparisons({None: str(file)}, parse, RowReport()):
            if (one.group, one.prompt_key) not in seen or option == "ukp":
                groups.append(one.group)
                prompts.append(one.prompt_key)
                seen.add((one.group, one.prompt_key))
    return groups, prompts


@pytest.mark.slow
@needs(UKP)
@pytest.mark.parametrize(("until", "count", "sides"), [("null", 32, 1), ("_", 16, 2)])
def test_the_debates_of_ukp(debates, until, count, sides):
    groups, prompts = debates
    judged = np.zeros(len(groups), dtype=int)
    for number in range(count):
        fold = Fold("subset", number, None if until == "null" else until)
        splits, facts, report = deal(groups, fold, prompts, share=0.1)
        assert (facts["of"], report.dropped) == (count, {})
        assert len({prompts[n] for n in splits["test"]}) == sides
        assert len(facts["val"]) == round(0.1 * (count - 1))
        judged[splits["test"]] += 1
    assert (judged == 1).all(), "each pair is held out once"


@pytest.mark.parametrize("sweep", ["cross_debate_folds", "cross_debate_folds_by_debate"])
def test_the_sweeps_over_debates_compose(sweep):
    found = compose_config([f"+sweeps={sweep}"])
    assert found.tune._target_ == "rmexp.models.tuning.Head"
    assert found.data.fold_until == {"cross_debate_folds": None}.get(sweep, "_")
    assert found.data.sources.ranking.fields.rating == "pagerank"
