"""model=implicit: log-probabilities as in plain transformers, in both layouts, and a score file."""

import json

import pyarrow.parquet
import pytest
import torch
import transformers

from rmexp.core.errors import UserError
from rmexp.data.reward_file import read_rewards
from rmexp.data.row_report import RowReport
from rmexp.inference.scorer import as_comparison
from rmexp.models import implicit_reward
from rmexp.policy.implicit_model import ImplicitModel, open_implicit_scorer
from rmexp.templates.rendering import render_comparison, response_starts, tokenize
from tests.conftest import result
from tests.helpers.policies import tiny_policy

PROMPT = [
    {"role": "user", "content": "Say one."},
    {"role": "assistant", "content": "One."},
    {"role": "user", "content": "And two?"},
]
RESPONSES = ["Two it is.", "Two it was, I think.", "Two"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("implicit")
    for seed, name in enumerate(("policy", "reference")):
        tiny_policy(folder / name, seed)
    return folder


def implicit(folder, layout="auto", beta=0.5):
    return ImplicitModel(
        str(folder / "policy"), str(folder / "reference"), beta, layout, str(folder / "cache")
    )


def scored(folder, layout, max_length=400):
    source = implicit(folder, layout)
    tokenizer = source.load_tokenizer()
    opened = open_implicit_scorer(source, tokenizer, "cpu", "32-true", max_length, 4096)
    comparisons = [as_comparison(PROMPT, RESPONSES), as_comparison("Short?", ["Yes."])]
    return opened.layout, opened.comparisons(comparisons, RowReport())


def plain(folder, prompt, response):
    """The implicit reward by transformers alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "policy")
    messages = [*prompt, {"role": "assistant", "content": response}]
    before, ids = (
        tokenizer(
            tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=asks),
            add_special_tokens=False,
        )["input_ids"]
        for given, asks in ((prompt, True), (messages, False))
    )
    assert ids[: len(before)] == before
    found = []
    for name in ("policy", "reference"):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder / name)
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        found.append(sum(logprobs[t - 1, ids[t]] for t in range(len(before), len(ids))))
    return 0.5 * float(found[0] - found[1])


@pytest.mark.slow
def test_rewards_are_those_of_plain_transformers_in_both_layouts(folder, monkeypatch):
    monkeypatch.setattr(implicit_reward, "LOGITS_AT_ONCE", 1000)  # several chunks
    expected = [plain(folder, PROMPT, response) for response in RESPONSES]
    other = plain(folder, [{"role": "user", "content": "Short?"}], "Yes.")
    for layout in ("tree", "padded"):
        used, (many, one) = scored(folder, layout)
        assert used == layout
        assert many == pytest.approx(expected, abs=2e-4)
        assert one == pytest.approx([other], abs=2e-4)
    assert scored(folder, "auto")[0] == "mixed"


@pytest.mark.slow
def test_a_prompt_that_lost_its_oldest_turns_still_ends_where_the_response_begins(folder):
    tokenizer = implicit(folder).load_tokenizer()
    comparison = as_comparison(PROMPT, RESPONSES[:2])
    shorter = as_comparison(PROMPT[2:], RESPONSES[:2])
    for given in (comparison, shorter):
        texts = render_comparison(tokenizer, given)
        tokens = tokenize(tokenizer, texts)
        starts = response_starts(tokenizer, comparison, texts, tokens)
        for response, ids, start in zip(RESPONSES, tokens, starts, strict=False):
            assert tokenizer.decode(ids[start:]).startswith(f"{response}<|im_end|>")
    cut = scored(folder, "padded", max_length=60)[1][0]
    whole = plain(folder, PROMPT[2:], RESPONSES[0])
    assert cut[0] == pytest.approx(whole, abs=2e-4)


def test_a_policy_relative_to_itself_changes_nothing(folder):
    same = ImplicitModel(*[str(folder / "policy")] * 2, 0.1, "auto", str(folder))
    opened = open_implicit_scorer(same, same.load_tokenizer(), "cpu", "32-true", 400, 4096)
    assert opened.comparisons([as_comparison(PROMPT, RESPONSES)], RowReport()) == [[0.0] * 3]


def test_other_tokenizers_and_missing_models_are_refused(folder, tmp_path):
    other = tiny_policy(tmp_path / "other")
    tokenizer = transformers.AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(other)
    source = ImplicitModel(str(folder / "policy"), str(other), 0.1, "auto", str(folder))
    source.check()
    with pytest.raises(UserError, match=r"other tokenizers \(1 tokens differ, the first '<more>'"):
        source.load_tokenizer()
    with pytest.raises(UserError, match=r"needs policy=DIR, .* and reference=DIR, the model"):
        ImplicitModel(str(folder), None, 0.1, "auto", str(folder)).check()


def read_parquet(file):
    """The rewards of each comparison, in the order of its responses."""
    rows = pyarrow.parquet.read_table(file).to_pylist()
    found = {}
    for row in rows:
        found.setdefault(row["id"], []).append(row["reward"])
    return [{"reward": rewards} for rewards in found.values()]


@pytest.mark.slow
def test_an_implicit_reward_chooses_beside_files(rmexp, folder, write_rows):
    samples = [
        {"id": f"p{p}", "prompt": f"Say {p}.", "response": f"It is {p + k}."}
        for p in range(6)
        for k in range(3)
    ]
    gold = [
        {"id": f"p{p}", "response": k, "reward": (p + k) % 3} for p in range(6) for k in (0, 1, 2)
    ]
    given = ("task=best_of_n", f"data.path={write_rows(samples)}")
    given += ("model=implicit", f"policy={folder}/policy", f"reference={folder}/reference")
    words = (*given, f"task.gold={write_rows(gold, 'gold.jsonl')}")
    rmexp(*words)
    name = "policy relative to reference"
    assert list(result(rmexp.runs()[0])["best_of_n"]["choosers"]) == [name]
    done = rmexp(*words, f"runs={write_rows(gold, 'near.jsonl')}", "aggregate=min")
    assert "responses scored" not in done.stdout  # from the cache
    assert set(result(rmexp.runs()[1])["best_of_n"]["choosers"]) == {"near", name, "min"}
    lacks = rmexp(*words, "reference=null", check=False)
    assert "reference=DIR, the model that it was trained from" in lacks.stdout + lacks.stderr


@pytest.mark.slow
def test_task_score_writes_a_file_that_other_tasks_read(rmexp, folder):
    rows = [{"id": "a", "prompt": "Short?", "chosen": "Yes.", "rejected": "No."}]
    (rmexp.folder / "rows.jsonl").write_text(json.dumps(rows[0]) + "\n", "utf-8")
    words = ("model=implicit", f"policy={folder}/policy", f"reference={folder}/reference")
    rest = ("data.path=rows.jsonl", "trainer.precision=32-true", "model.beta=0.5", "out=r.jsonl")
    rmexp("task=score", *words, *rest)
    found = read_rewards(str(rmexp.folder / "r.jsonl"))
    expected = plain(folder, [{"role": "user", "content": "Short?"}], "Yes.")
    assert found["a", 0] == pytest.approx(expected, abs=2e-4)
    rmexp("task=evaluate", "data=jsonl", "data.path=rows.jsonl", "eval.scores=r.jsonl")
    refused = rmexp(*words, "data=demo", check=False)
    assert refused.returncode != 0
    assert "model=implicit scores rows and does nothing else" in refused.stdout + refused.stderr
    evaluate = ("task=evaluate", *words, *rest[:3], "data=jsonl", "logger=none")
    for _ in range(2):  # computed, and from the cache
        rmexp(*evaluate)
        (table,) = read_parquet(rmexp.runs()[-1] / "predictions" / "all.parquet")
        assert table["reward"] == pytest.approx([found["a", 0], found["a", 1]], rel=1e-6)
    export = rmexp("task=export", *words, "out=x", check=False)
    assert "so task=export cannot use it" in export.stderr
    both = rmexp("task=evaluate", *words, "eval.scores=r.jsonl", check=False)
    assert "eval.scores cannot use it" in both.stderr
    probed = rmexp(*evaluate, "task.probes=true", check=False)
    assert "task=evaluate does not use task.probes" in probed.stderr
    runs = [str(run) for run in rmexp.runs() if (run / "predictions").is_dir()]
    compared = rmexp("task=compare", f"runs=[{','.join(runs)}]", "task.set=all", "aggregate=mean")
    assert "mean of 3 runs" in compared.stdout
    assert compared.stdout.count("-evaluate") >= 3  # without settings each is an entry of its own
    lacks = rmexp("task=score", words[0], words[1], *rest, check=False)
    assert "reference=DIR, the model that it was trained from" in lacks.stdout + lacks.stderr
