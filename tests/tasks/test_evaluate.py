"""task=evaluate through the real entry point: suites, several at once, files of rewards, scales.

The model of these tests has learnt that answers of x are better than answers of o.
"""

import json
import math
import shutil

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
import transformers

import rmexp as package
from rmexp.core.errors import UserError
from tests.conftest import CommandLine, result
from tests.data.test_supervision import FAST, list_rows
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer

pytestmark = pytest.mark.slow

GOOD, BAD = "xxx", "ooo"


def jsonl(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """A tiny model that likes x."""
    rmexp = CommandLine(tmp_path_factory.mktemp("trained"), cache, reports=True)
    path = jsonl(rmexp.folder / "rows.jsonl", list_rows(120))
    rmexp(*FAST, "data=jsonl", f"data.path={path}", "loss=bradley_terry")
    (found,) = rmexp.runs()
    assert result(found)["metrics"]["test/accuracy"] > 0.95
    return found


def judgebench(label, source, n):
    one = {"pair_id": f"p{n}", "source": source, "question": f"Say it {n}.", "label": label}
    return one | {"response_A": GOOD, "response_B": BAD}


def llmbar(label, n):
    return {"input": f"Say it {n}.", "output_1": GOOD, "output_2": BAD, "label": label}


def lists(chosen, rejected, n, **more):
    return {"prompt": f"Say it {n}.", "chosen": chosen, "rejected": rejected, "id": f"{n}"} | more


RIGHT, WRONG = [GOOD, "xxo", "xxx x"], [BAD, "oox", "ooo o"]
SUITES = {
    "judgebench": [
        judgebench("A>B", "mmlu-pro-law", 0),
        judgebench("A>B", "mmlu-pro-law", 1),
        judgebench("B>A", "mmlu-pro-law", 2),
        judgebench("B>A", "livecodebench", 3),
    ],
    "llmbar": [llmbar(1, 0), llmbar(2, 1), llmbar(2, 2)],
    "rewardbench2": [
        *(lists([GOOD], ["oo", "o", BAD], n, subset="Factuality") for n in range(3)),
        lists([BAD], ["oxx", "xxo", GOOD], 3, subset="Factuality"),
        lists([GOOD], ["oo", "o", BAD], 4, subset="Math"),
    ],
    "rm_bench": [lists(RIGHT, WRONG, 0, domain="chat"), lists(WRONG, RIGHT, 1, domain="chat")],
    "rmb": [
        {
            "conversation_input": [{"role": "user", "content": f"Say it {n}."}],
            "category_path": f"RMB/{goal}/Chat/Any",
            "chosen": {"answer": good},
            "reject": {"answer": bad},
        }
        for n, (goal, good, bad) in enumerate(
            [("Helpfulness", GOOD, BAD), ("Helpfulness", BAD, GOOD), ("Harmlessness", GOOD, BAD)]
        )
    ],
    "rewardbench": [
        {"prompt": "Say it.", "chosen": GOOD, "rejected": BAD, "subset": name, "id": name}
        for name in ("hep-go", "math-prm")
    ],
}


@pytest.fixture(scope="module")
def judged(run, tmp_path_factory, cache):
    """The outcome of all suites in one command, and the folder with their files."""
    rmexp = CommandLine(tmp_path_factory.mktemp("suites"), cache)
    words = []
    for name, rows in SUITES.items():
        path = jsonl(rmexp.folder / f"{name}.jsonl", rows)
        words += [f"+eval@eval.sets.{name}={name}", f"eval.sets.{name}.path={path}"]
    done = rmexp("task=evaluate", f"checkpoint={run}", "logger=none", "eval=several", *words)
    (found,) = rmexp.runs()
    return done, found, rmexp.folder


def test_all_suites_at_once_have_the_scores_that_a_hand_finds(judged):
    done, run, _ = judged
    found = result(run)["metrics"]
    assert found["judgebench/accuracy"] == 0.5
    assert found["judgebench/knowledge/accuracy"] == pytest.approx(2 / 3)
    assert found["judgebench/coding/accuracy"] == 0
    assert found["llmbar/accuracy"] == pytest.approx(1 / 3)
    assert found["rewardbench2/factuality/score"] == 0.75
    assert found["rewardbench2/best_of_k"] == 0.8
    assert found["rewardbench2/best_of_k_chance"] == 0.25
    assert found["rewardbench2/math/score"] == 1
    assert "rewardbench2/score" not in found  # no rows of the other domains
    assert found["rm_bench/chat/score"] == 0.5
    assert found["rmb/helpfulness/pairwise"] == 0.5
    assert found["rmb/harmlessness/pairwise"] == 1
    assert found["rewardbench/accuracy"] == 1
    for name, rows in SUITES.items():
        if name != "rewardbench":  # whose rows here are of one prompt
            assert found[f"{name}/accuracy_low"] <= found[f"{name}/accuracy"]
        table = pyarrow.parquet.read_table(run / "predictions" / f"{name}.parquet")
        assert len(set(table["id"].to_pylist())) == len(rows)
        assert (run / "judgements" / f"{name}.parquet").is_file()
        assert name in done.stdout
    said = " ".join(result(run)["fallbacks"])
    assert "rewardbench2: No rows of the domains" in said
    assert "rewardbench: No rows of the Chat subsets" in said
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"llmbar/accuracy", "rewardbench2/math/score"} <= set().union(*lines)
    assert "factuality/score" in done.stdout


def test_probes_of_rewrites_are_reported(judged):
    _, run, _ = judged
    found = result(run)["metrics"]
    for name in ("white_space", "trailing_newline", "polite_prefix"):
        for what in ("shift", "drift", "flipped", "bought"):
            assert math.isfinite(found[f"judgebench/sensitivity/{name}/{what}"])
    # Of RM-Bench's pairs half are right, whichever way the labels stand.
    assert found["rm_bench/sensitivity/accuracy"] == found["rm_bench/accuracy"]
    assert found["rewardbench/sensitivity/swapped_accuracy"] == 0
    assert not [said for said in result(run)["verdicts"] if "swapped" in said]


def test_rewards_in_a_file_are_judged_like_the_models_own(judged, rmexp):
    _, scored, folder = judged
    words = []
    for name in SUITES:
        words += [f"+eval@eval.sets.{name}={name}", f"eval.sets.{name}.path={folder}/{name}.jsonl"]
        words += [f"eval.sets.{name}.scores={scored}/predictions/{name}.parquet"]
    rmexp("task=evaluate", "logger=none", "eval=several", *words)
    (run,) = rmexp.runs()
    found, expected = result(run)["metrics"], result(scored)["metrics"]
    modelled = ("loss", "calibrated", "length", "longer", "position", "sensitivity", "verbosity")
    same = {k: v for k, v in expected.items() if not any(word in k for word in modelled)}
    assert len(same) > 100
    assert {k: found[k] for k in same} == same
    assert not (run / "checkpoints").exists()
    for folder in ("predictions", "judgements"):
        ours, theirs = (
            pyarrow.parquet.read_table(home / folder / "llmbar.parquet").to_pylist()
            for home in (run, scored)
        )
        drop = ("text", "tokens")
        assert [{k: v for k, v in r.items() if k not in drop} for r in ours] == [
            {k: v for k, v in r.items() if k not in drop} for r in theirs
        ]


def test_rows_weigh_by_their_weights_and_files_may_lack_some(rmexp):
    rows = [{"prompt": f"{n}", "chosen": GOOD, "rejected": BAD, "id": f"r{n}"} for n in range(5)]
    for row, weight in zip(rows, (3, 1, 1, 1, 1), strict=True):
        row["weight"] = weight
    rewards = [(1, 0), (0, 1), (0, 1), (math.nan, 0), None]
    lines = [
        {"id": f"r{n}", "response": k, "reward": value}
        for n, both in enumerate(rewards)
        for k, value in enumerate(both or ())
    ]
    lines.append({"id": "stranger", "response": 0, "reward": 1})
    jsonl(rmexp.folder / "rows.jsonl", rows)
    jsonl(rmexp.folder / "rewards.jsonl", lines)
    done = rmexp(
        "task=evaluate", "logger=none", "data=jsonl", "data.path=rows.jsonl",
        "eval.scores=rewards.jsonl",
    )  # fmt: skip
    found = result(rmexp.runs()[0])
    assert found["metrics"]["all/accuracy"] == 3 / 5
    assert found["metrics"]["all/pairs"] == 3
    for said in (
        "1 comparisons have no reward for some response: they are left out (r4)",
        "1 comparisons have a reward that is NaN or infinite: left out (r3)",
        "1 ids of the rewards are not in the data (stranger)",
    ):
        assert any(said in one for one in found["fallbacks"]), found["fallbacks"]
    assert "note: all: 1 comparisons" in done.stdout


def test_the_runs_own_rewards_give_its_own_numbers_without_it(run, rmexp):
    rows = run.parent.parent.parent / "rows.jsonl"
    words = ("logger=none", "data=jsonl", f"data.path={rows}", "task.rows=test")
    expected = result(run)["metrics"]
    for scores in (f"{run}/predictions/test.parquet", str(run)):
        done = rmexp("task=evaluate", *words, f"eval.scores={scores}")
        assert "responses scored" not in done.stdout  # a run brings its own predictions
        found = result(rmexp.runs()[-1])["metrics"]
        for name in ("accuracy", "accuracy_low", "nll", "auc", "spearman", "pairs"):
            assert found[f"test/{name}"] == expected[f"test/{name}"]


# ------------------------------------------------- rows of a model and rows of a file are the same
def rewards_of(rows, prefix=""):
    """Rewards by which each first response is the better one."""
    return [
        {"id": f"{prefix}{row['id']}", "response": k, "reward": -k} for row in rows for k in (0, 1)
    ]


def mixture(rmexp):
    """Two sources, the one with a bad row, the other with a system prompt of its own."""
    rows = [lists(GOOD, BAD, n) for n in range(6)]
    jsonl(rmexp.folder / "a.jsonl", [*rows, {"prompt": "?", "chosen": "", "rejected": ""}])
    jsonl(rmexp.folder / "b.jsonl", rows)
    jsonl(rmexp.folder / "rewards.jsonl", rewards_of(rows, "a:") + rewards_of(rows, "b:"))
    words = ["data=mix", "data.sources.b.system=Be brief."]
    for name in "ab":
        words += [f"+data@data.sources.{name}=jsonl", f"data.sources.{name}.path={name}.jsonl"]
    return [*words, "data.sources.a.max_bad_share=0.5", "logger=none"]


def test_files_of_rewards_heed_what_each_source_of_a_mixture_says(rmexp):
    words = ["task=evaluate", *mixture(rmexp), "eval.scores=rewards.jsonl"]
    done = rmexp(*words, check=False)
    assert "leave them out with data.sources.a.on_bad_row=skip" in done.stderr
    rmexp(*words, "data.sources.a.on_bad_row=skip")
    found = result(rmexp.runs()[-1])["metrics"]
    assert (found["all/pairs"], found["all/accuracy"]) == (12, 1)
    assert (found["all/a/accuracy"], found["all/b/accuracy"]) == (1, 1)
    table = pyarrow.parquet.read_table(rmexp.runs()[-1] / "predictions" / "all.parquet")
    assert set(table["subset"].to_pylist()) == {"a", "b"}


def test_sources_with_a_template_of_their_own_are_probed_too(run, rmexp):
    words = ["task=evaluate", *mixture(rmexp), "data.sources.a.on_bad_row=skip"]
    rmexp(*words, f"checkpoint={run}")
    found = result(rmexp.runs()[-1])["metrics"]
    assert found["all/sensitivity/white_space/pairs"] == 12


def test_a_run_without_a_test_split_is_evaluated_on_the_rows_it_reported(rmexp):
    path = jsonl(rmexp.folder / "rows.jsonl", list_rows(40))
    words = ("data=jsonl", f"data.path={path}", "data.test_share=0")
    rmexp(*FAST, *words, "trainer.max_epochs=1", "loss=bradley_terry")
    (trained,) = rmexp.runs()
    rmexp("task=evaluate", f"checkpoint={trained}", "logger=none", "task.probes=false")
    found, expected = result(rmexp.runs()[-1]), result(trained)["metrics"]
    for name in ("accuracy", "pairs", "spearman", "loss"):
        assert found["metrics"][f"test/{name}"] == pytest.approx(expected[f"test/{name}"])
    assert any("no test split" in said for said in found["fallbacks"])


def test_splits_are_the_same_whether_a_model_scores_the_rows_or_a_file_does(tmp_path):
    """Rows that are too long for a model move no other prompt into another split."""
    long = {n for n in range(200) if n % 7 == 0}
    rows = [lists(GOOD * (200 if n in long else 1), BAD, n) for n in range(200)]
    path = str(jsonl(tmp_path / "rows.jsonl", rows))
    ids = []
    for tokenizer in (tiny_tokenizer(), None):
        data = from_conf("data/jsonl", path=path, max_length=300, cache=str(tmp_path))
        for _ in range(2):  # tokenised, and from the cache
            data.prepare(tokenizer, 0, lambda what, count: None)
        names = data.rows["id"][:]
        ids.append({split: {names[n] for n in found} for split, found in data.splits.items()})
    kept, every = ids
    assert [len(every[split]) for split in ("train", "val", "test")] == [160, 20, 20]
    dropped = {str(n) for n in long}
    assert kept == {split: found - dropped for split, found in every.items()}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["eval=llmbar", "eval.path=no.jsonl"],
            "needs checkpoint=DIRECTORY (or eval.scores=",
        ),
        (["eval.scores=no.jsonl"], "no.jsonl: there is no such file of rewards."),
        (["eval=llmbar", "eval.path=no.jsonl", "eval.scores=ok"], "eval.path=no.jsonl: there is"),
        (["eval.scores=ok", "checkpoint=."], "eval.scores does not use checkpoint"),
        (["eval.scores=ok", "task.probes=false"], "eval.scores does not use task.probes"),
        (["eval=llmbar", "eval.path=ok", "eval.scores=ok"], "eval.path has no rows"),
        (["eval.scores=ok"], "ok.jsonl has no rows"),
        (
            ["eval=several", "checkpoint=."],
            "eval=several has no sets: add each as +eval@",
        ),
        (["eval=llmbar"], "eval.path is needed"),
        (["eval=llmbar", "eval.path=ok", "eval.limit=0"], "should be a whole number above 0"),
        (["eval=lmbar"], "There is no eval=lmbar (did you mean llmbar?)"),
        (["task=train", "eval=llmbar", "eval.path=ok"], "task=train does not use eval"),
    ],
)
def test_what_cannot_be_judged_is_told_in_a_sentence(rmexp, words, sentence):
    (rmexp.folder / "ok.jsonl").write_text("")
    words = [word.replace("=ok", "=ok.jsonl") for word in words]
    done = rmexp("task=evaluate", "logger=none", *words, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_rows_of_a_suite_that_cannot_be_used(run, rmexp):
    jsonl(rmexp.folder / "bad.jsonl", [*SUITES["llmbar"], llmbar(3, 9)])
    words = ("task=evaluate", f"checkpoint={run}", "logger=none", "eval=llmbar")
    words += ("eval.path=bad.jsonl", "task.probes=false")
    done = rmexp(*words, check=False)
    assert "bad.jsonl:4: label is '3' (known: 1 or 2)" in done.stderr
    assert "leave them out with eval.on_bad_row=skip" in done.stderr
    done = rmexp(*words, "eval.on_bad_row=skip", "eval.max_bad_share=0.5")
    found = result(rmexp.runs()[-1])["metrics"]
    assert found["llmbar/pairs"] == 3
    assert not [name for name in found if "sensitivity" in name]
    assert "1 bad" in done.stdout or "label is" in done.stdout


def test_rewards_that_are_not_finite_stop_with_a_sentence(run, rmexp):
    shutil.copytree(run / "export", rmexp.folder / "broken")
    file = rmexp.folder / "broken" / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    weights["score.weight"] = torch.full_like(weights["score.weight"], math.nan)
    safetensors.torch.save_file(weights, file, {"format": "pt"})
    jsonl(rmexp.folder / "llmbar.jsonl", SUITES["llmbar"])
    done = rmexp(
        "task=evaluate", "checkpoint=broken", "logger=none", "eval=llmbar",
        "eval.path=llmbar.jsonl", check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "gives rewards that are NaN or infinite" in done.stderr
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------- calibration
def test_val_teaches_a_scale_that_test_run_and_export_have(run):
    stored = json.loads((run / "calibration.json").read_text())
    assert json.loads((run / "export" / "calibration.json").read_text()) == stored
    found = result(run)["metrics"]
    assert stored["after"]["nll"] <= stored["before"]["nll"]
    assert found["val/nll_calibrated"] == pytest.approx(stored["after"]["nll"])
    assert found["val/nll"] == pytest.approx(stored["before"]["nll"])
    assert {"test/ece_calibrated", "test/rating_rmse", "test/rating_rmse_isotonic"} <= set(found)
    card = (run / "export" / "README.md").read_text()
    assert f"{stored['temperature']:.4f}" in card
    assert f"{stored['reward_mean']:.4f}" in card
    page = (run / "report.html").read_text()
    assert "as trained" in page
    assert f"temperature {stored['temperature']:.3g}" in page


def test_a_loaded_model_tells_rewards_on_other_scales(run, tmp_path):
    stored = json.loads((run / "calibration.json").read_text())
    for home in (run, run / "export"):
        scorer = package.load(home, precision="32-true")
        rewards = scorer.score("Say it 1.", [GOOD, "xxo", "xoo", BAD])
        normalised = scorer.score("Say it 1.", [GOOD, "xxo", "xoo", BAD], scale="normalised")
        mean, deviation = stored["reward_mean"], stored["reward_std"]
        assert normalised == pytest.approx([(r - mean) / deviation for r in rewards])
        ratings = scorer.score("Say it 1.", [GOOD, "xxo", "xoo", BAD], scale="rating")
        assert ratings == pytest.approx([3, 2, 1, 0], abs=0.6)
        assert scorer.calibration.temperature == stored["temperature"]
    shutil.copytree(run / "export", tmp_path / "plain")
    (tmp_path / "plain" / "calibration.json").unlink()
    plain = package.load(tmp_path / "plain")
    with pytest.raises(UserError, match=r"scale=rating: the model has no calibration.json"):
        plain.score("Say it 1.", [GOOD], scale="rating")
    (tmp_path / "plain" / "calibration.json").write_text('{"temperature": 1')
    with pytest.raises(UserError, match=r"calibration.json is no calibration"):
        package.load(tmp_path / "plain")


def test_an_export_elsewhere_takes_the_scale_along(run, rmexp):
    rmexp("task=export", f"checkpoint={run}", "out=elsewhere")
    copied = (rmexp.folder / "elsewhere" / "calibration.json").read_text()
    assert json.loads(copied) == json.loads((run / "calibration.json").read_text())
    jsonl(rmexp.folder / "llmbar.jsonl", SUITES["llmbar"])
    rmexp(
        "task=evaluate", "checkpoint=elsewhere", "logger=none", "eval=llmbar",
        "eval.path=llmbar.jsonl", "task.probe_rows=1",
    )  # fmt: skip
    found = result(rmexp.runs()[-1])["metrics"]
    assert "llmbar/nll_calibrated" in found
    assert found["llmbar/sensitivity/white_space/pairs"] == 1


def test_any_hugging_face_reward_model_can_be_judged(rmexp):
    """Without anything of ours in its directory; rewards as plain transformers gives them."""
    home, tokenizer = rmexp.folder / "theirs", tiny_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_labels=1, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForSequenceClassification(config).eval()
    model.save_pretrained(home)
    tokenizer.save_pretrained(home)
    jsonl(rmexp.folder / "llmbar.jsonl", SUITES["llmbar"])
    rmexp(
        "task=evaluate", "checkpoint=theirs", "logger=none", "eval=llmbar",
        "eval.path=llmbar.jsonl", "trainer.precision=32-true",
    )  # fmt: skip
    (run,) = rmexp.runs()
    table = pyarrow.parquet.read_table(run / "predictions" / "llmbar.parquet").to_pylist()
    for row in table:
        inputs = tokenizer(row["text"], add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            assert model(**inputs).logits.item() == pytest.approx(row["reward"], abs=1e-5)
    first, second = np.array([row["reward"] for row in table]).reshape(-1, 2).T
    labels = np.array([row["label"] for row in SUITES["llmbar"]])
    right = np.where(labels == 1, first > second, second > first)
    assert result(run)["metrics"]["llmbar/accuracy"] == pytest.approx(np.mean(right))
    assert "llmbar/nll_calibrated" not in result(run)["metrics"]
