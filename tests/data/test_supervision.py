"""Every kind of supervision through the real entry point: what fits trains, the rest is refused.

A tiny model learns that answers with more x are better, whatever people say of them it by.
"""

import json
import math

import pyarrow.parquet
import pytest

from tests.conftest import result

pytestmark = pytest.mark.slow

TINY = ("model=tiny", "logger=none", "trainer.precision=32-true", "data.batch_size=4")
FAST = (
    *TINY,
    "optim.lr=1e-2",
    "optim.head_lr=null",
    "trainer.max_epochs=2",
    "trainer.validations=1",
)


def answer(good, n):
    return ("x" if good else "o") * (3 + n % 3)


def pair_rows(count=40, **columns):
    return [
        {"prompt": f"Say it {n}.", "chosen": answer(True, n), "rejected": answer(False, n)}
        | {name: give(n) for name, give in columns.items()}
        for n in range(count)
    ]


def list_rows(count=40):
    """Four answers with no, one, two and three x, in changing order."""
    rows = []
    for n in range(count):
        order = [(k + n) % 4 for k in range(4)]
        texts = ["x" * k + "o" * (3 - k) for k in order]
        rows.append({"prompt": f"Say it {n}.", "responses": texts, "ratings": order})
    return rows


def single_rows(count=80):
    return [
        {"prompt": f"Say it {n}.", "response": answer(n % 4 == 0, n), "label": n % 4 == 0}
        for n in range(count)
    ]


def stepwise_rows(count=40):
    return [
        {
            "prompt": f"Work it out {n}.",
            "completions": [answer(True, n), answer(n % 2 == 0, n)],
            "labels": [True, n % 2 == 0],
        }
        for n in range(count)
    ]


@pytest.mark.parametrize("loss", ["focal", "squared_margin", "exponential", "infonce"])
def test_losses_over_pairs_learn(rmexp, write_rows, loss):
    rmexp(*FAST, "data=jsonl", f"data.path={write_rows(pair_rows())}", f"loss={loss}")
    assert result(rmexp.runs()[0])["metrics"]["test/accuracy"] == 1.0


def test_margins_ratings_smoothing_and_centring(rmexp, write_rows):
    rows = pair_rows(chosen_rating=lambda n: 4.0 + n % 2, rejected_rating=lambda n: 2.0)
    path = write_rows(rows)
    words = ("loss.label_smoothing=0.1", "loss.centring=0.01", "loss.margin=ratings")
    rmexp(*FAST, "data=jsonl", f"data.path={path}", "loss=bradley_terry", *words)
    metrics = result(rmexp.runs()[0])["metrics"]
    assert metrics["test/accuracy"] == 1.0
    # Without centring rewards drift as they like; with it both sides lie around 0.
    assert abs(metrics["test/reward_mean"]) < 0.5


def test_pairs_without_the_margin_that_the_loss_reads_are_left_out(rmexp, write_rows):
    def grade(n):
        return None if n % 5 == 0 else 4.0

    rows = pair_rows(chosen_rating=grade, rejected_rating=lambda n: 2.0, margin=grade)
    words = (*TINY, "trainer.max_steps=2", "data=jsonl", f"data.path={write_rows(rows)}")
    done = rmexp(*words, "loss=bradley_terry", "loss.margin=data", "loss.scale=ratings")
    run, facts = rmexp.runs()[-1], result(rmexp.runs()[-1])
    dropped = json.loads((run / "environment.json").read_text())["data"]["dropped"]
    (lost,) = dropped["without a margin"].values()
    assert f"{lost} dropped: without a margin (all {lost})" in done.stdout
    assert any("of train are without a margin, which the loss" in n for n in facts["fallbacks"])
    for what in ("a margin", "a rating gap"):
        assert any(f"of val are without {what}, which" in note for note in facts["fallbacks"])
    assert math.isfinite(facts["metrics"]["val/loss"])
    rmexp(*words, "loss=mix", "loss.losses.pairs.margin=ratings", "loss.losses.ratings=null")
    notes = result(rmexp.runs()[-1])["fallbacks"]
    assert any("which loss.losses.pairs reads: it leaves them out" in note for note in notes)


@pytest.mark.parametrize("loss", ["plackett_luce", "infonce", "kwise", "regression", "ordinal"])
def test_losses_over_lists_and_ratings_learn(rmexp, write_rows, loss):
    rmexp(*FAST, "data=jsonl", f"data.path={write_rows(list_rows())}", f"loss={loss}")
    metrics = result(rmexp.runs()[0])["metrics"]
    assert metrics["test/spearman"] > 0.8
    assert metrics["test/accuracy"] > 0.9
    assert math.isfinite(metrics["test/loss"])


def test_good_and_bad_rows_alone_train_and_select_without_pairs(rmexp, write_rows):
    rmexp.reports = True
    path = write_rows(single_rows())
    rmexp(*FAST, "data=jsonl", f"data.path={path}", "loss=binary")
    run = rmexp.runs()[0]
    found = result(run)
    assert found["metrics"]["test/spearman"] > 0.6
    assert "test/accuracy" not in found["metrics"]
    assert found["kinds"]["ratings"] > 0 == found["kinds"]["pairs"]
    assert (run / "report.html").is_file()
    state = json.loads((run / "loss.json").read_text())
    assert state["class_weights"][1] > state["class_weights"][0]

    rmexp("task=evaluate", f"checkpoint={run}", "logger=none")
    again = result(rmexp.runs()[-1])["metrics"]
    expected = {k: v for k, v in found["metrics"].items() if k.startswith("test/")}
    assert {k: again[k] for k in expected} == expected
    assert again["test/label_auc_low"] <= again["test/label_auc"] > 0.8


def test_ties_learn_their_width_and_evaluate_knows_it(rmexp, write_rows):
    ties = [
        {"prompt": f"Say {n}.", "responses": [answer(True, n), answer(True, n + 1)]}
        | {"ratings": [1, 1]}
        for n in range(30)
    ]
    strict = [
        {"prompt": f"Say it {n}.", "responses": [answer(True, n), answer(False, n)]}
        | {"ratings": [1, 0]}
        for n in range(30)
    ]
    path = write_rows(ties + strict)
    rmexp(*FAST, "data=jsonl", f"data.path={path}", "loss=ties")
    run = rmexp.runs()[0]
    found = result(run)["metrics"]
    assert found["test/accuracy"] == 1.0
    assert json.loads((run / "loss.json").read_text())["log_width"] != pytest.approx(math.log(0.5))
    rmexp("task=evaluate", f"checkpoint={run}", "logger=none")
    assert result(rmexp.runs()[-1])["metrics"]["test/loss"] == found["test/loss"]
    (run / "loss.json").unlink()
    done = rmexp("task=evaluate", f"checkpoint={run}", "logger=none")
    assert "does not say what its loss learnt" in done.stdout


def test_steps_of_an_answer_are_read_inside_of_one_branch(rmexp, write_rows):
    path = write_rows(stepwise_rows())
    words = (*FAST, "data=stepwise", f"data.path={path}", "loss=binary")
    rmexp(*words)
    run = rmexp.runs()[0]
    assert result(run)["metrics"]["test/spearman"] > 0.6
    table = pyarrow.parquet.read_table(run / "predictions" / "test.parquet").to_pylist()
    first, second = table[0]["text"], table[1]["text"]
    assert second.startswith(first)
    trees = [line["train/loss"] for line in metrics_of(run) if "train/loss" in line]
    rmexp(*words, "model.layout=padded")
    padded = [line["train/loss"] for line in metrics_of(rmexp.runs()[-1]) if "train/loss" in line]
    assert trees == pytest.approx(padded, abs=1e-3)


def metrics_of(run):
    return map(json.loads, (run / "metrics.jsonl").read_text().splitlines())


def test_pairs_ratings_and_lists_train_together(rmexp, write_rows):
    pairs, lists = write_rows(pair_rows(40), "p.jsonl"), write_rows(list_rows(40), "l.jsonl")
    singles = write_rows(single_rows(40), "s.jsonl")
    sources = [
        word
        for name, path in (("pairs", pairs), ("lists", lists), ("singles", singles))
        for word in (f"+data@data.sources.{name}=jsonl", f"data.sources.{name}.path={path}")
    ]
    weights = ["+data.weights.pairs=2", "+data.weights.lists=1", "+data.weights.singles=1"]
    done = rmexp(*FAST, "data=mix", *sources, *weights, "loss=mix", "loss.weights.ratings=0.5")
    found = result(rmexp.runs()[0])
    assert found["metrics"]["test/accuracy"] > 0.9
    assert {"test/pairs/accuracy", "test/lists/accuracy"} <= set(found["metrics"])
    assert found["sampled"]["pairs"][1] == pytest.approx(0.5)
    assert "drawn: pairs 50.0%" in done.stdout


def test_another_loss_for_a_part_of_the_mix(rmexp, write_rows):
    path = write_rows(pair_rows(30))
    swapped = "loss@loss.losses.pairs=contrastive"
    done = rmexp(*TINY, "data=jsonl", f"data.path={path}", "loss=mix", swapped)
    run = rmexp.runs()[0]
    assert "rmexp.losses.Contrastive" in (run / "config.yaml").read_text()
    assert "loss.losses.ratings has nothing to learn from: no ratings." in done.stdout
    assert "loss.losses.ratings has nothing" in " ".join(result(run)["fallbacks"])


def test_balance_is_reported(rmexp, write_rows):
    rows = pair_rows(60, language=lambda n: "zh" if n % 10 == 0 else "en")
    path = write_rows(rows)
    done = rmexp(*FAST, "data=jsonl", f"data.path={path}", "data.balance=language")
    assert "drawn: zh 50.0%" in done.stdout
    assert result(rmexp.runs()[0])["sampled"]["zh"][0] < 0.2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("data=hh_rlhf", "loss=regression"),
            "loss=regression needs ratings; data=hh_rlhf has pairs and lists. Losses that fit: "
            "bradley_terry, contrastive, exponential, focal, infonce, kwise, plackett_luce, "
            "squared_margin.",
        ),
        (
            ("data=hh_rlhf", "loss=ties"),
            "loss=ties needs pairs and ties; data=hh_rlhf has pairs and lists.",
        ),
        (
            ("data=hh_rlhf", "loss=bradley_terry", "loss.margin=data"),
            "loss=bradley_terry needs pairs and margins; data=hh_rlhf has pairs and lists.",
        ),
        (("data=kto", "loss=bradley_terry"), "needs pairs; data=kto has ratings."),
        (("data=hh_rlhf", "loss=mix", "loss.losses.pairs=null", "loss.losses.lists=null"),
         "loss=mix needs ratings; data=hh_rlhf has pairs and lists."),
        (("data=mix",), "data=mix has no sources: add each as +data@data.sources.NAME=OPTION"),
        (
            ("data=mix", "+data@data.sources.a=jsonl", "data.sources.a.path=PATH",
             "data.sources.a.batch_size=3"),
            "data.sources.a.batch_size has no effect: set data.batch_size for all sources.",
        ),
        (
            ("data=mix", "+data@data.sources.a=jsonl", "data.sources.a.path=PATH",
             "+data.weights.b=3"),
            "data.weights names b; data.sources has a.",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_made(rmexp, write_rows, words, sentence):
    path = write_rows(pair_rows(4))
    here = [word.replace("PATH", path) for word in words]
    if not any("sources" in word or word == "data=mix" for word in here):
        here.append(f"data.path={path}")
    done = rmexp(*TINY, *here, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert rmexp.runs() == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("loss=regression",), "loss=regression needs ratings; data=jsonl has pairs and lists."),
        (("loss=bradley_terry", "loss.margin=data"), "needs pairs and margins"),
        (("data.balance=language",), "data.balance=language, but no training row has a language."),
        (
            ("loss=mix", "loss.losses.pairs.margin=ratings"),
            "loss=mix needs ratings; data=jsonl has pairs and lists.",
        ),
        (("trainer.monitor=val/all/accuracy",), "these validation rows do not have it"),
        (("trainer.monitor=val/spearman",), "these validation rows do not have it"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_only_rows_show_is_refused_before_a_model_loads(rmexp, write_rows, words, sentence):
    path = write_rows(pair_rows(30))
    done = rmexp(*TINY, "data=jsonl", f"data.path={path}", *words, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "parameters" not in done.stdout


def test_columns_by_other_names(rmexp, write_rows):
    rows = [
        {"instruction": row["prompt"], "best": row["chosen"], "worst": row["rejected"]}
        for row in pair_rows(20)
    ]
    names = ("data.fields.prompt=instruction", "data.fields.chosen=best")
    path = write_rows(rows)
    rmexp(*TINY, "data=jsonl", f"data.path={path}", *names, "data.fields.rejected=worst")
    assert result(rmexp.runs()[0])["status"] == "done"


def test_a_cap_is_not_spent_on_rows_that_teach_nothing(rmexp, write_rows):
    unrated = [{"prompt": f"Say {n % 10}.", "responses": ["a", f"b{n}"]} for n in range(40)]
    pairs = [row | {"prompt": f"Say {n}."} for n, row in enumerate(pair_rows(10))]
    path = write_rows(unrated + pairs)
    done = rmexp(*TINY, "data=jsonl", f"data.path={path}", "data.max_per_prompt=1")
    assert "nothing in it for loss=contrastive" in done.stdout
    assert "beyond data.max_per_prompt" not in done.stdout


def test_a_cap_on_comparisons_of_a_prompt_is_counted(rmexp, write_rows):
    rows = [row | {"prompt": f"Say {n % 10}."} for n, row in enumerate(pair_rows(60))]
    path = write_rows(rows)
    done = rmexp(*TINY, "data=jsonl", f"data.path={path}", "data.max_per_prompt=2")
    assert "dropped: beyond data.max_per_prompt=2" in done.stdout


def test_rows_of_weight_0_are_left_out_and_counted(rmexp, write_rows):
    path = write_rows(pair_rows(40, weight=lambda n: n % 2))
    done = rmexp(*TINY, "data=jsonl", f"data.path={path}", "data.batch_size=1")
    assert "dropped: of weight 0" in done.stdout


def test_evaluate_under_another_loss_says_that_it_cannot_tell_it(rmexp, write_rows):
    path = write_rows(list_rows(30))
    rmexp(*TINY, "data=jsonl", f"data.path={path}", "loss=regression")
    run = rmexp.runs()[0]
    done = rmexp("task=evaluate", f"checkpoint={run}", "logger=none", "loss=ordinal")
    assert "learnt for another loss" in done.stdout


def test_scoring_takes_the_system_prompt_of_its_rows(rmexp, write_rows):
    rmexp(*TINY, "data=jsonl", f"data.path={write_rows(pair_rows(30))}")
    run, path = rmexp.runs()[0], write_rows(pair_rows(3), "three.jsonl")
    words = ("task=score", f"checkpoint={run}", f"data.path={path}", "trainer.precision=32-true")
    rmexp(*words, "out=plain.jsonl")
    done = rmexp(*words, "out=system.jsonl", "data.system='Be brief.'")
    assert "hold for these rows alone" in done.stdout
    plain, system = ((rmexp.folder / f).read_text() for f in ("plain.jsonl", "system.jsonl"))
    assert plain != system


def test_a_system_prompt_for_one_source(rmexp, write_rows):
    one, two = write_rows(pair_rows(20), "one.jsonl"), write_rows(pair_rows(20), "two.jsonl")
    sources = ("+data@data.sources.a=jsonl", f"data.sources.a.path={one}")
    more = ("+data@data.sources.b=jsonl", f"data.sources.b.path={two}")
    rmexp(*TINY, "data=mix", *sources, *more, "data.sources.b.system='Be brief.'")
    table = pyarrow.parquet.read_table(rmexp.runs()[0] / "predictions" / "val.parquet").to_pylist()
    for row in table:
        assert ("Be brief." in row["text"]) == row["id"].startswith("b:")
