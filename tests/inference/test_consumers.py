"""Other libraries read an export: they give the reward itself, for texts and for messages."""

import json
import logging
import warnings

import pytest
import torch
import transformers

from rmexp.inference.export import export
from rmexp.inference.model_card import ExportFacts
from rmexp.templates.template import template_fingerprint
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer

PROMPT = "Say hello."
ANSWERS = ["Hello, you.", "No."]
DIALOGUES = [
    [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": answer}]
    for answer in ANSWERS
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The directory of an export, and the rewards of `DIALOGUES`."""
    tokenizer, home = tiny_tokenizer(), tmp_path_factory.mktemp("consumers") / "export"
    model = from_conf("model/tiny").load_model(tokenizer, seed=0).eval()
    texts = [tokenizer.apply_chat_template(one, tokenize=False) for one in DIALOGUES]
    with torch.no_grad():
        rewards = [
            model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits.item()
            for text in texts
        ]
    export(model, tokenizer, texts, rewards, ExportFacts("m", "b", "d", "l", "f", {}), home)
    assert abs(rewards[0] - rewards[1]) > 1e-2
    return home, rewards


def test_the_configuration_says_that_the_output_is_a_number(exported):
    config = json.loads((exported[0] / "config.json").read_text())
    assert config["problem_type"] == "regression"
    assert config["sentence_transformers"] == {"activation_fn": "torch.nn.modules.linear.Identity"}
    assert len(config["id2label"]) == 1


def test_the_pipeline_of_transformers_gives_the_reward(exported):
    home, rewards = exported
    tokenizer = transformers.AutoTokenizer.from_pretrained(home)
    texts = [tokenizer.apply_chat_template(one, tokenize=False) for one in DIALOGUES]
    scorer = transformers.pipeline("text-classification", model=str(home), device="cpu")
    found = [one["score"] for one in scorer(texts, add_special_tokens=False)]
    assert found == pytest.approx(rewards, abs=1e-5)


def test_the_trainer_of_transformers_has_the_loss_that_it_had(exported):
    """Squared error with one label, whether the configuration says so or not."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(exported[0])
    ids, labels = torch.tensor([[5, 6, 7]]), torch.tensor([2.0])
    losses = []
    for kind in ("regression", None):
        model.config.problem_type = kind
        losses.append(model(input_ids=ids, labels=labels).loss.item())
    reward = model(input_ids=ids).logits.item()
    assert losses == pytest.approx([(reward - 2) ** 2] * 2, rel=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # sentence-transformers' and its dependencies' own
def test_a_cross_encoder_predicts_and_ranks_by_the_reward(exported):
    cross_encoder = pytest.importorskip("sentence_transformers").CrossEncoder
    home, rewards = exported
    model = cross_encoder(str(home), device="cpu")
    assert model.predict(DIALOGUES).tolist() == pytest.approx(rewards, abs=1e-5)
    pairs = [(PROMPT, answer) for answer in ANSWERS]
    assert model.predict(pairs).tolist() == pytest.approx(rewards, abs=1e-5)
    ranked = {one["corpus_id"]: one["score"] for one in model.rank(PROMPT, ANSWERS)}
    assert [ranked[0], ranked[1]] == pytest.approx(rewards, abs=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(home)
    assert template_fingerprint(tokenizer) == template_fingerprint(tiny_tokenizer())


@pytest.mark.slow
def test_trl_trains_a_policy_on_it(exported, tmp_path, monkeypatch):
    """One GRPO step; its rewards are the model's for the prompts and completions that it logs."""
    trl = pytest.importorskip("trl", reason="the extra `rl` (trl) is not installed")
    import datasets

    home, _ = exported
    tokenizer = tiny_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = transformers.LlamaForCausalLM(config)
    prompts = [[{"role": "user", "content": PROMPT}]] * 2
    logging.getLogger("trl").setLevel(logging.ERROR)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trl.GRPOTrainer(
            model=policy,
            processing_class=tokenizer,
            reward_funcs=str(home),
            train_dataset=datasets.Dataset.from_list([{"prompt": one} for one in prompts]),
            args=trl.GRPOConfig(
                output_dir=str(tmp_path / "trl"), max_steps=1, per_device_train_batch_size=4,
                num_generations=4, max_completion_length=4, beta=0.0, report_to=[],
                use_cpu=True, bf16=False, save_strategy="no", disable_tqdm=True, logging_steps=1,
                gradient_checkpointing=False,
            ),
        )  # fmt: skip
        seen = []
        compute = trainer._calculate_rewards

        def watched(inputs, prompts, completions, *rest):
            rewards = compute(inputs, prompts, completions, *rest)
            seen.append((prompts, completions, rewards))
            return rewards

        monkeypatch.setattr(trainer, "_calculate_rewards", watched)
        trainer.train()
    (prompts, completions, rewards_CF) = seen[0]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(home)
    for prompt, completion, reward in zip(prompts, completions, rewards_CF[:, 0], strict=True):
        text = tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        assert model(**inputs).logits.item() == pytest.approx(float(reward), abs=1e-5)
