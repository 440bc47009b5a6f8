"""task=compare on run directories written by hand, and once on real ones."""

import csv
import json
import re
import subprocess
import sys

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from scipy import stats

from rmexp.analysis.compare.comparison_report import compare_runs
from rmexp.analysis.compare.runs import places, read_run
from rmexp.analysis.compare.tables import terminal_table, write_csv
from rmexp.analysis.report import compare_page
from rmexp.core.errors import UserError
from rmexp.tracking.predictions import (
    JUDGEMENTS,
    PREDICTIONS,
    eval_set_tables,
    read_judgements,
    write_set,
)
from tests.conftest import ROOT, SHORT_DEMO, result
from tests.helpers.run_directories import margin, write_parquet, write_run

BETTER, WORSE = [1] * 18 + [0] * 2, [1] * 8 + [0] * 12
TWO_A_PROMPT = [n // 2 for n in range(20)]


def two(folder, prompts=None, **facts):
    """A run that is right on 18 of 20 pairs and one that is on 8 of them."""
    write_run(folder / "good", BETTER, prompts, config=margin(1.0), **facts)
    write_run(folder / "bad", WORSE, prompts, config=margin(2.0), **facts)
    return [str(folder)]


def grid(folder, seeds=(0, 1, 2), lifts=(0.0, 1.2), **facts):
    """A sweep of two margins and two losses with some seeds; the second loss is better."""
    rng = np.random.default_rng(0)
    ease = rng.normal(0.6, 1, 60)
    for loss, lift in zip(("bradley_terry", "contrastive"), lifts, strict=True):
        for value in (0.5, 1.0):
            for seed in seeds:
                chance = 1 / (1 + np.exp(-ease - lift))
                wins = rng.random((60, 4)) < chance[:, None]
                write_run(
                    folder / f"{loss}-{value}-{seed}",
                    wins.ravel().astype(int),
                    np.repeat(np.arange(60), 4),
                    config=margin(value, seed) | {"loss": {"_target_": loss, "margin": value}},
                    given=[f"loss={loss}", f"loss.margin={value}", f"seed={seed}"],
                    labels={"loss": loss, "data": "demo", "model": "tiny"},
                    **facts,
                )
    return [str(folder)]


def bounds(name, value):
    """A metric with an interval of 0.2."""
    return {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}


def broken(home, **facts):
    """Change the result of a run."""
    file = home / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


# ------------------------------------------------------------------- verdicts
def test_one_seed_speaks_of_checkpoints(tmp_path):
    found = compare_runs(two(tmp_path), "test", "accuracy", "best")
    (verdict,) = found.verdicts
    assert verdict.difference.method == "mid-p McNemar"
    assert verdict.p == pytest.approx(2**-10)  # ten pairs that only the one got right
    assert verdict.sentence() == (
        "checkpoint loss.margin=1.0 is better than checkpoint loss.margin=2.0 on these rows: "
        "accuracy +50.0 points [26.3, 73.7], p=0.00098 (n=20, mid-p McNemar)"
    )
    assert any(note.startswith("One seed a setting") for note in found.notes)


def test_prompts_with_several_pairs_are_tested_as_wholes(tmp_path):
    (verdict,) = compare_runs(two(tmp_path, TWO_A_PROMPT), "test", "accuracy", "best").verdicts
    assert verdict.difference.method == "sign flips of prompts"
    assert verdict.p == 2 / 2**5, "the ten pairs are of five prompts"
    assert not verdict.significant


def test_no_difference_says_what_it_would_take(tmp_path):
    write_run(tmp_path / "a", BETTER, config=margin(1.0))
    write_run(tmp_path / "b", [0, *BETTER[1:]], config=margin(2.0))
    (verdict,) = compare_runs([str(tmp_path)], "test", "accuracy", "best").verdicts
    # one pair of 20: variance 0.0025; 20 x 0.0025 x 78,489 = 3,924
    assert verdict.sentence() == (
        "no detectable difference between checkpoint loss.margin=1.0 and checkpoint "
        "loss.margin=2.0 (n=20, you would need about n=3,900 to see 1 point): "
        "+5.0 points [0.0, 15.8], p=0.5"
    )


def test_equal_checkpoints_and_few_prompts(tmp_path):
    write_run(tmp_path / "a", BETTER, [0] * 10 + [1] * 10, config=margin(1.0))
    write_run(tmp_path / "b", WORSE, [0] * 10 + [1] * 10, config=margin(2.0))
    (verdict,) = compare_runs([str(tmp_path)], "test", "accuracy", "best").verdicts
    assert "n=20 of 2 prompts, too few for any test" in verdict.sentence()
    write_run(tmp_path / "b", BETTER, config=margin(2.0))
    write_run(tmp_path / "a", BETTER, config=margin(1.0))
    (verdict,) = compare_runs([str(tmp_path)], "test", "accuracy", "best").verdicts
    assert "(n=20, no pair tells them apart): +0.0 points" in verdict.sentence()


def test_several_seeds_speak_of_settings(tmp_path):
    found = compare_runs(grid(tmp_path, seeds=(0, 1, 2, 3)), "test", "accuracy", "all")
    assert [len(row.group.runs) for row in found.rows] == [4, 4, 4, 4]
    assert found.keys == ["loss", "loss.margin"]
    assert len(found.verdicts) == 6
    assert all(verdict.over_seeds for verdict in found.verdicts)
    real = [verdict.sentence() for verdict in found.verdicts if verdict.significant]
    assert real
    assert all(re.match(r"loss=contrastive .* is better than loss=bradley", s) for s in real)
    assert all(" over 4 seeds each: accuracy +" in sentence for sentence in real)
    assert not any("One seed" in note for note in found.notes)


def test_holm_counts_all_pairs_where_the_best_is_chosen_by_the_same_rows(tmp_path):
    runs = grid(tmp_path, seeds=(0,))
    best = compare_runs(runs, "test", "accuracy", "best").verdicts
    every = compare_runs(runs, "test", "accuracy", "all").verdicts
    near = compare_runs(runs, "test", "accuracy", "neighbours").verdicts
    assert (len(best), len(near), len(every)) == (3, 4, 6)
    smallest = min(best, key=lambda verdict: verdict.p)
    assert smallest.p == pytest.approx(6 * smallest.difference.p)


def test_main_effects_are_over_the_grid(tmp_path):
    found = compare_runs(grid(tmp_path), "test", "accuracy", "best")
    loss, value = found.effects
    assert (loss.key, loss.base, loss.level) == ("loss", "bradley_terry", "contrastive")
    assert (loss.cells, loss.over_seeds) == (2, True)
    means = {row.group.name: row.value for row in found.rows}
    by_hand = np.mean([v for n, v in means.items() if "contrastive" in n]) - np.mean(
        [v for n, v in means.items() if "bradley" in n]
    )
    assert loss.difference.value == pytest.approx(by_hand)
    assert loss.difference.low > 0
    assert value.difference.low < 0 < value.difference.high
    assert "loss: bradley_terry -> contrastive: +0" in "\n".join(compare_page.effect_lines(found))


def test_keys_that_always_change_together_are_named(tmp_path):
    for n, (value, lr) in enumerate([(0.5, 1e-5), (1.0, 2e-5), (2.0, 3e-5)]):
        write_run(tmp_path / str(n), BETTER, config=margin(value) | {"optim": {"lr": lr}})
    write_run(tmp_path / "3", WORSE, config=margin(0.5) | {"optim": {"lr": 2e-5}, "x": 1})
    write_run(tmp_path / "4", WORSE, config=margin(1.0) | {"optim": {"lr": 2e-5}, "x": 1})
    found = compare_runs([str(tmp_path)], "test", "accuracy", "best")
    assert {effect.key for effect in found.effects} == {"loss.margin", "x"}
    assert "No two settings differ in optim.lr alone: its effect is unknown." in found.notes


# ------------------------------------------------------------ what is compared
def test_what_differs_and_only_that(tmp_path):
    shared = {"optim": {"lr": 1e-5}}
    for n, loss in enumerate(("contrastive", "bradley_terry")):
        own = {"_target_": f"rmexp.{loss}", "margin": n, ("squared", "scale")[n]: None}
        write_run(
            tmp_path / str(n),
            BETTER,
            config=shared | {"loss": own, "logger": {"mode": n}, "trainer": {"keep": n}},
            labels={"loss": loss, "data": "demo", "model": "tiny"},
        )
    found = compare_runs([str(tmp_path)], "test", "accuracy", "best")
    assert found.keys == ["loss"], "its margin and its other keys come with the loss"
    file = tmp_path / "1" / "overrides.yaml"
    file.write_text("- loss.margin=1\n")
    found = compare_runs([str(tmp_path)], "test", "accuracy", "best")
    assert found.keys == ["loss", "loss.margin"], "unless somebody set it"
    assert {row.group.name for row in found.rows} == {
        "loss=contrastive loss.margin=0",
        "loss=bradley_terry loss.margin=1",
    }


def test_failed_and_running_runs_are_listed(tmp_path):
    runs = two(tmp_path)
    for name, facts in {
        "burnt": {"status": "failed", "error": "out of <memory>"},
        "dead": {"status": "running", "heartbeat": "2026-01-01T00:00:00+00:00"},
        "other": {"task": "score"},
    }.items():
        broken(write_run(tmp_path / name, BETTER), **facts)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "result.json").write_text('{"status": "do')
    nan = [float("nan"), *BETTER[1:]]
    write_run(tmp_path / "nan", nan, config=margin(3.0))
    (write_run(tmp_path / "bare", BETTER) / "predictions" / "test.parquet").unlink()
    (write_run(tmp_path / "old", BETTER) / "judgements" / "test.parquet").unlink()
    cut = write_run(tmp_path / "cut", BETTER) / "predictions" / "test.parquet"
    cut.write_bytes(cut.read_bytes()[:100])
    found = compare_runs(runs, "test", "accuracy", "best")
    assert len(found.rows) == 2
    why = {one.name: f"{one.status}: {one.why}" for one in found.skipped}
    assert why["burnt"] == "failed: out of <memory>"
    assert why["dead"].startswith("dead: no heartbeat since 2026-01-01")
    assert why["other"] == "done: task=score computes no rewards"
    assert why["half"] == "unreadable: its result.json is incomplete"
    assert "1 of 40 responses have no finite reward (the first: row-0, " in why["nan"]
    assert "it has no rewards of test" in why["bare"]
    assert "task=evaluate checkpoint=" in why["old"]
    assert "not a whole parquet file" in why["cut"]
    assert len(why) == 8


def test_other_rows_are_refused_with_what_differs(tmp_path):
    runs = two(tmp_path)
    write_run(tmp_path / "fewer", BETTER[:15], config=margin(3.0))
    moved = write_run(tmp_path / "moved", BETTER, [f"q{n}" for n in range(20)], config=margin(4.0))
    (moved / "environment.json").write_text('{"data_fingerprint": "d2"}')
    found = compare_runs(runs, "test", "accuracy", "best")
    assert len(found.rows) == 2
    fewer, other = (next(o.why for o in found.skipped if o.name == n) for n in ("fewer", "moved"))
    assert fewer == (
        "evaluated on other rows of test (15 pairs, 15 of them among the 20 of bad), so that no "
        "paired test is possible"
    )
    same = "the same ids as bad, with other texts: 20 pairs, 0 of them among the 20 of bad"
    assert f"{same}; its data is other (d2, not d1)" in other


def with_contents(home, contents):
    """Give the pairs of a run a content of their own, as `eval_set_tables` does."""
    file = home / "judgements" / "test.parquet"
    rows = [list(row.values()) for row in pyarrow.parquet.read_table(file).to_pylist()]
    for row, content in zip(rows, contents, strict=True):
        row[-1] = content
    write_parquet(file, JUDGEMENTS, rows)


def test_pairs_are_the_same_by_their_content_not_by_their_ids(tmp_path):
    contents = [f"text {n}" for n in range(20)]
    with_contents(write_run(tmp_path / "good", BETTER, config=margin(1.0)), contents)
    renamed = [f"other-{n}" for n in reversed(range(20))]
    bad = write_run(tmp_path / "bad", WORSE, ids=renamed, config=margin(2.0))
    with_contents(bad, contents)
    other = write_run(tmp_path / "other", BETTER, config=margin(3.0))
    with_contents(other, [f"{content}!" for content in contents])
    found = compare_runs([str(tmp_path)], "test", "accuracy", "best")
    assert [row.group.name for row in found.rows] == ["loss.margin=1.0", "loss.margin=2.0"]
    assert found.verdicts[0].p == pytest.approx(2**-10), "as with equal ids"
    (left,) = found.skipped
    assert "evaluated on other rows of test (20 pairs, 0 of them among the 20 of" in left.why


def test_a_metric_that_is_no_mean_has_an_interval_over_seeds(tmp_path):
    """Seeds of 0.4, 0.5, 0.6: variance 0.01 / 3 of their mean, and (0.1 / 2.093)^2 of prompts."""
    for seed, value in enumerate((0.4, 0.5, 0.6)):
        metrics = bounds("test/spearman", value)
        write_run(tmp_path / str(seed), BETTER, config=margin(1.0, seed), metrics=metrics)
    (row,) = compare_runs([str(tmp_path)], "test", "spearman", "best").rows
    between, sampled = 0.01 / 3, (0.1 / stats.t.ppf(0.975, 19)) ** 2
    freedom = (between + sampled) ** 2 / (between**2 / 2 + sampled**2 / 19)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(between + sampled)
    assert (row.low, row.high) == pytest.approx((0.5 - half, 0.5 + half))


def test_files_of_rewards_are_judged_by_the_runs(tmp_path):
    runs = two(tmp_path / "runs")
    rows = [
        {"id": f"row-{n}", "response": k, "reward": 2.5 * (k == 0) + (k == 1) * (n < 3)}
        for n in range(20)
        for k in range(2)
    ]
    file = tmp_path / "peer.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare_runs([*runs, str(file)], "test", "accuracy", "best")
    assert [row.group.name for row in found.rows] == [
        "peer",
        "loss.margin=1.0",
        "loss.margin=2.0",
    ]
    assert found.rows[0].value == 1.0
    assert found.keys == ["loss.margin"]
    assert "checkpoint peer is better than checkpoint loss.margin=2.0" in (
        found.verdicts[1].sentence()
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    (left,) = compare_runs([*runs, str(file)], "test", "accuracy", "best").skipped
    assert "1 of 40 responses have no finite reward (the first: row-19, " in left.why
    with pytest.raises(UserError, match="does not say which response is better: name a run too"):
        compare_runs([str(file)], "test", "accuracy", "best")


def test_the_same_run_twice_counts_once(tmp_path):
    runs = two(tmp_path)
    write_run(tmp_path / "again", BETTER, config=margin(1.0))
    write_run(tmp_path / "rebuilt", BETTER[::-1], config=margin(1.0))
    found = compare_runs([*runs, str(tmp_path / "good")], "test", "accuracy", "best")
    assert sorted(row.group.name for row in found.rows) == ["again", "loss.margin=2.0", "rebuilt"]
    (left,) = found.skipped
    assert left.name == "good"
    assert "the same configuration, seed and rewards as again: counted once" in left.why


def test_val_is_never_silent(tmp_path):
    write_run(tmp_path / "a", BETTER, set="val", config=margin(1.0))
    write_run(tmp_path / "b", WORSE, set="val", config=margin(2.0))
    with pytest.raises(UserError, match=r"no rewards of test \(it has val: task.set=val\)"):
        compare_runs([str(tmp_path)], "test", "accuracy", "best")
    found = compare_runs([str(tmp_path)], "val", "accuracy", "best")
    assert any(note.startswith("Selected on the same rows") for note in found.notes)
    same = tmp_path / "same"
    write_run(same / "a", BETTER, config=margin(1.0))
    write_run(same / "a", BETTER, set="val", config=margin(1.0))
    broken(same / "a", metrics={"test/accuracy": 0.9})
    found = compare_runs([str(same)], "test", "accuracy", "best")
    assert any(note.startswith("Selected on the same rows") for note in found.notes)


def test_val_says_which_to_take(tmp_path):
    write_run(tmp_path / "a", BETTER, config=margin(1.0), metrics={"val/accuracy": 0.6})
    write_run(tmp_path / "b", WORSE, config=margin(2.0), metrics={"val/accuracy": 0.7})
    notes = compare_runs([str(tmp_path)], "test", "accuracy", "best").notes
    assert "By val/accuracy the choice is loss.margin=2.0 (0.7000)." in notes


def test_other_metrics_sort_and_are_tested_where_they_can_be(tmp_path):
    write_run(
        tmp_path / "a",
        [3.0] * 9 + [-1],
        config=margin(1),
        metrics=bounds("test/rating_rmse", 2.0) | {"test/loss": 0.1, "test/ece": 0.3},
    )
    write_run(
        tmp_path / "b",
        [0.1] * 9 + [-1],
        config=margin(2),
        metrics=bounds("test/rating_rmse", 1.0) | {"test/loss": 0.2, "test/ece": 0.1},
    )
    found = compare_runs([str(tmp_path)], "test", "nll", "best")
    assert found.tested == "nll"
    assert found.rows[0].group.name == "loss.margin=1", "the lowest is the best"
    assert found.verdicts[0].difference.value < 0
    found = compare_runs([str(tmp_path)], "test", "ece", "best")
    assert found.rows[0].group.name == "loss.margin=2"
    assert found.tested == "accuracy"
    assert compare_runs([str(tmp_path)], "test", "rating_rmse", "best").rows[0].value == 1.0
    assert "ece is no mean over pairs: the tests are of accuracy." in found.notes
    for name in ("loss", "length_baseline", "reward_std"):
        for home in (tmp_path / "a", tmp_path / "b"):
            broken(home, metrics=result(home)["metrics"] | {f"test/{name}": 0.5})
        with pytest.raises(UserError, match=rf"task.metric={name}: neither .* those that do: acc"):
            compare_runs([str(tmp_path)], "test", name, "best")
    with pytest.raises(UserError, match=r"no run has a test/acuracy \(did you mean accuracy\?\)"):
        compare_runs([str(tmp_path)], "test", "acuracy", "best")


def test_rows_without_pairs_are_shown_and_not_tested(tmp_path):
    for name, value in (("a", 1.0), ("b", 2.0)):
        metrics = bounds("test/spearman", value / 4)
        write_run(tmp_path / name, [], config=margin(value), metrics=metrics)
    found = compare_runs([str(tmp_path)], "test", "spearman", "best")
    assert [row.value for row in found.rows] == [0.5, 0.25]
    assert "test has no strictly labelled pairs: nothing can be tested." in found.notes
    assert "There is no pair to test." in compare_page.compare_page("n", "s", found, tmp_path)


def test_an_evaluation_stands_for_the_run_that_it_evaluated(tmp_path):
    trained = write_run(tmp_path / "trained", WORSE, config=margin(2.0, seed=3))
    for n, wins in enumerate((WORSE, BETTER)):
        other = {} if n == 0 else {"checkpoint": None, "model": {"path": "peer"}}
        write_run(
            tmp_path / "evaluations" / str(n),
            wins,
            config={"checkpoint": str(trained), "model": {"path": "export"}} | other,
            task="evaluate",
            training_seconds=None,
        )
    found = compare_runs([str(tmp_path / "evaluations")], "test", "accuracy", "best")
    entry = next(row for row in found.rows if row.value == 0.4).group.runs[0]
    assert entry.run.name == "trained"
    assert entry.run.config["seed"] == 3
    assert entry.run.cost["training_seconds"] == 10


# ------------------------------------------------------------------- the names
def test_where_runs_are_found(tmp_path):
    two(tmp_path / "sweep")
    inside = tmp_path / "sweep" / "good" / "wandb" / "offline-run-1"
    inside.mkdir(parents=True)
    (inside / "run-1.wandb").touch()
    assert [place.name for place in places(str(tmp_path / "sweep"))] == ["bad", "good"]
    assert [place.name for place in places(str(inside))] == ["good"]
    assert [place.name for place in places(str(inside.parent))] == ["good"]
    assert [place.name for place in places(str(inside / "run-1.wandb"))] == ["good"]
    for n in (10, 9):
        write_run(tmp_path / "jobs" / f"{n}-x", BETTER)
    assert [place.name for place in places(str(tmp_path / "jobs"))] == ["9-x", "10-x"]
    foreign = tmp_path / "wandb" / "offline-run-2"
    foreign.mkdir(parents=True)
    (foreign / "run-2.wandb").touch()
    for text, sentence in {
        str(foreign): "a W&B run outside of a run directory of rmexp",
        str(tmp_path / "wandb"): "a W&B run outside of a run directory of rmexp",
        str(tmp_path / "no"): "there is no such file or directory",
        str(ROOT / "conf"): "there is no run in it (no result.json)",
    }.items():
        with pytest.raises(UserError, match=re.escape(sentence)):
            places(text)


# ------------------------------------------------------------------ what is seen
def test_the_csv_has_settings_and_what_was_left_out(tmp_path):
    runs = two(tmp_path)
    broken(write_run(tmp_path / "burnt", BETTER), status="failed", error="no, really")
    found = compare_runs(runs, "test", "accuracy", "best")
    write_csv(found, tmp_path / "comparison.csv")
    with open(tmp_path / "comparison.csv", newline="") as stream:
        best, second, burnt = csv.DictReader(stream)
    assert (best["rank"], best["setting"], best["loss.margin"]) == ("1", "loss.margin=1.0", "1.0")
    assert (best["test/accuracy"], best["minus_best"], best["seeds"]) == ("0.9", "", "0")
    assert (best["pairs"], best["prompts"], best["training_seconds"]) == ("20", "20", "10.0")
    assert float(second["minus_best"]) == -0.5
    assert float(second["minus_best_low"]) < -0.5 < float(second["minus_best_high"]) < 0
    assert float(second["p_holm"]) == pytest.approx(2**-10)
    assert second["runs"] == str(tmp_path / "bad")
    assert (burnt["status"], burnt["rank"]) == ("failed: no, really", "")


def test_a_run_whose_predictions_are_a_link_elsewhere_is_not_compared(tmp_path):
    run = write_run(tmp_path / "run", BETTER)
    (run / "predictions").rename(tmp_path / "elsewhere")
    (run / "predictions").symlink_to("../elsewhere")
    skipped = read_run(run)
    assert skipped.status == "unreadable"
    assert f"is a link to {tmp_path / 'elsewhere'}, outside of the run" in skipped.why


def test_no_cell_of_the_csv_is_a_formula(tmp_path):
    formulas = ['=HYPERLINK("x")', "+1+1", "-cmd", "@sum", "\tx"]
    for text in formulas:
        write_run(tmp_path / text, BETTER, config={"seed": 0, "loss": {"margin": text}})
    found = compare_runs([str(tmp_path)], "test", "accuracy", "best")
    write_csv(found, tmp_path / "comparison.csv")
    with open(tmp_path / "comparison.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert {line["loss.margin"] for line in lines} == {f"'{text}" for text in formulas}
    for cell in (cell for line in lines for cell in [*line, *line.values()]):
        assert cell[:1] not in ("=", "+", "@", "\t")
        assert not cell.startswith("-") or float(cell) <= 0


def test_the_table_and_the_page(tmp_path):
    runs = grid(tmp_path)
    broken(
        write_run(tmp_path / "burnt", BETTER), status="failed", error="<script>alert(1)</script>"
    )
    found = compare_runs(runs, "test", "accuracy", "best")
    headers = [str(column.header) for column in terminal_table(found, 200).columns]
    assert headers[:4] == ["loss", "loss.margin", "test/accuracy", "against the best"]
    assert headers[-1] == "GiB"
    narrow = [str(column.header) for column in terminal_table(found, 80).columns]
    assert narrow == headers[: len(narrow)]
    assert "against the best" in narrow
    assert len(narrow) < len(headers)
    page = compare_page.compare_page("<b>name</b>", "outputs", found, tmp_path)
    assert page.count("<script") == 1, "the page's own"
    assert "<b>name" not in page
    assert page.count("<svg") == 3, "settings, effects, reliability; the heat map is a table"
    assert (tmp_path / "plots" / "heat.png").is_file()
    assert "test/accuracy by loss.margin and loss" in page or "by loss and loss.margin" in page
    for verdict in found.verdicts:
        assert verdict.sentence().replace("'", "&#39;") in page
    assert not re.search(r"(?:src|href)=.https?:", page), "one file, no network"


@pytest.mark.slow
def test_no_torch():
    code = (
        "import sys, rmexp.analysis.compare.tables, rmexp.analysis.report.compare_page\n"
        "assert not {'torch', 'transformers', 'lightning', 'wandb', 'datasets'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------- what a run writes
def test_what_people_said_stands_beside_the_rewards(tmp_path):
    rows = datasets.Dataset.from_list(
        [
            {
                "id": "a",
                "subset": "s",
                "prompt_key": "p",
                "response_keys": ["1", "2", "3"],
                "lengths": [2, 1, 1],
                "texts": ["x", "y", "z"],
                "ratings": [3.0, float("nan"), 1.0],
                "pairs": [[0, 1, 1], [2, 1, 0]],
                "weights": [2.0, 1.0],
                "weight": 0.5,
            }
        ]
    )
    write_set(tmp_path, "test", eval_set_tables(rows, np.array([0])), {0: [0.5, -1.0, 2.0]})
    predictions = pyarrow.parquet.read_table(tmp_path / "predictions" / "test.parquet")
    judgements = pyarrow.parquet.read_table(tmp_path / "judgements" / "test.parquet")
    assert predictions.column_names == list(PREDICTIONS)
    assert predictions["rating"].to_pylist() == [3.0, None, 1.0]
    assert predictions["tokens"].to_pylist() == [2, 1, 1]
    assert judgements.to_pylist() == [
        dict(zip(JUDGEMENTS, row, strict=True))
        for row in [
            ("a", 0, 1, 1, "p", "s", 1.0, "p/1/2"),
            ("a", 2, 1, 0, "p", "s", 0.5, "p/3/2"),
        ]
    ]
    found = read_judgements(tmp_path / "judgements" / "test.parquet")
    assert (found.sides, found.tied) == (([("a", 0)], [("a", 1)]), 1)


# ------------------------------------------------------------- the command line
QUICK = ("model=tiny", SHORT_DEMO, "logger=none", "trainer.max_steps=2", "trainer.validations=1")


@pytest.mark.slow
def test_a_sweep_is_compared_by_the_command(rmexp):
    rmexp("-m", *QUICK, "data.limit=60", "optim.head_lr=1e-4,1e-1", "name=two")
    (home,) = rmexp.folder.glob("outputs/sweeps/two-*")
    done = rmexp("task=compare", f"runs={home.relative_to(rmexp.folder)}")
    run = next(run for run in rmexp.runs() if result(run)["task"] == "compare")
    assert (run / "report.html").is_file()
    assert len((run / "comparison.csv").read_text().splitlines()) == 3
    assert "optim.head_lr" in done.stdout
    assert re.search(r"(no detectable difference between )?checkpoint optim.head_lr=", done.stdout)
    table = compare_runs([str(home)], "test", "accuracy", "best")
    for row in table.rows:
        assert row.value == pytest.approx(
            np.mean([e.run.metrics["test/accuracy"] for e in row.group.runs])
        )
        for entry in row.group.runs:
            assert entry.items("accuracy").mean() == pytest.approx(entry.metrics["accuracy"])
    assert result(run)["verdicts"] == [verdict.sentence() for verdict in table.verdicts]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["task=compare"], "task=compare needs runs=DIRECTORY."),
        (["task=compare", "runs=nowhere"], "runs=nowhere: there is no such file or directory."),
        (["task=compare", "runs=[a,b]"], "runs=a: there is no such file or directory."),
        (["task=compare", "runs=.", "loss=contrastive"], "does not use loss: leave out loss."),
        (["task=compare", "runs=.", "task.pairs=some"], "should be best or neighbours or all."),
        (["runs=."], "task=train does not use runs: leave out runs."),
    ],
)
def test_mistakes_get_one_sentence(words, sentence, rmexp):
    done = rmexp(*words, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert not rmexp.runs()


@pytest.mark.slow
def test_bad_runs_are_left_out_by_the_command_and_said(rmexp):
    folder = rmexp.folder / "runs"
    two(folder)
    broken(write_run(folder / "burnt", BETTER), status="failed", error="out of memory")
    write_run(folder / "nan", [float("nan"), *BETTER[1:]], config=margin(3.0))
    (write_run(folder / "bare", BETTER) / "predictions" / "test.parquet").unlink()
    write_run(folder / "other", BETTER[:15], config=margin(4.0))
    (folder / "half").mkdir()
    (folder / "half" / "result.json").write_text('{"status": "do')
    done = rmexp("task=compare", f"runs={folder}")
    said = " ".join(done.stdout.split())
    for why in (
        "out of memory",
        "1 of 40 responses have no finite reward",
        "it has no rewards of test",
        "evaluated on other rows of test",
        "its result.json is incomplete",
    ):
        assert why in said, said
    done = rmexp("task=compare", f"runs={folder}", "task.metric=acuracy", check=False)
    assert done.returncode == 1
    assert "no run has a test/acuracy (did you mean accuracy?)" in done.stderr


def test_pairs_weigh_in_the_table_and_in_the_tests(tmp_path):
    for name, wins, value in (("a", [1, 1, 0, 0], 1.0), ("b", [0, 0, 1, 1], 2.0)):
        home = write_run(tmp_path / name, wins, config=margin(value), metrics={})
        judged = [
            (f"row-{n}", 0, 1, 1, f"p{n}", "all", weight) for n, weight in enumerate((3.0, 1, 1, 0))
        ]
        write_parquet(home / "judgements" / "test.parquet", JUDGEMENTS, judged)
        broken(home, metrics={})
    found = compare_runs([str(tmp_path)], "test", "accuracy", "best")
    assert [row.value for row in found.rows] == [0.8, 0.2]
    (verdict,) = found.verdicts
    assert verdict.difference.value == pytest.approx(0.6)
    assert verdict.difference.items == 3, "a pair of weight 0 is none"
    assert verdict.difference.method == "sign flips of prompts"
