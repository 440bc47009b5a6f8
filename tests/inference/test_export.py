"""The export's proof, and the refusals that protect it."""

import json

import pytest
import torch
import transformers

from rmexp.batching.collate import BatchLayout, Collate
from rmexp.core.errors import UserError
from rmexp.inference.export import export
from rmexp.inference.model_card import ExportFacts
from rmexp.models.reward_model import compute_rewards, model_facts, prepare_model
from tests.conftest import result
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer, toy_row

FACTS = ExportFacts("m", "b", "d", "l", "f", {})
TEXTS = [
    "<|im_start|>user\nHi<|im_end|>\n",
    "<|im_start|>user\nHi there, you<|im_end|>\n<|im_end|>",
]


@pytest.fixture
def scored():
    tokenizer = tiny_tokenizer()
    model = from_conf("model/tiny").load_model(tokenizer, seed=0).eval()
    ids = tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        values = compute_rewards(
            model, Collate(0, 10**9, BatchLayout("padded"))([toy_row(ids)]).batches[0]
        ).tolist()
    return model, tokenizer, values


def test_texts_that_end_in_eos_pool_their_last_token(scored, tmp_path):
    model, tokenizer, values = scored
    export(model, tokenizer, TEXTS, values, FACTS, tmp_path / "e")
    assert (tmp_path / "e" / "model.safetensors").is_file()


def test_an_export_that_does_not_hold_is_refused_and_leaves_nothing(scored, tmp_path):
    model, tokenizer, values = scored
    with pytest.raises(UserError, match="a reward differs by"):
        export(model, tokenizer, TEXTS, [v + 1e-3 for v in values], FACTS, tmp_path / "e")
    assert list(tmp_path.iterdir()) == []


def test_a_pad_token_that_texts_end_in_is_caught(scored, tmp_path):
    """The trap of transformers#35352: pooling the last token that is not pad."""
    model, tokenizer, values = scored
    tokenizer.pad_token = "<|im_end|>"
    model.config.pad_token_id = tokenizer.pad_token_id
    with pytest.raises(UserError, match="a reward differs by"):
        export(model, tokenizer, TEXTS, values, FACTS, tmp_path / "e")


def test_a_head_with_several_outputs_is_refused(scored, tmp_path):
    model, tokenizer, _ = scored
    model.score = torch.nn.Linear(model.score.in_features, 3, bias=False)
    model.config.num_labels = 3
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a classifier with several labels"):
        from_conf("model/hf", path=str(tmp_path)).load_model(tokenizer, 0)


def test_a_causal_model_gets_a_seeded_head(scored, tmp_path):
    model, tokenizer, _ = scored
    model.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    source = from_conf("model/hf", path=str(tmp_path))
    heads = [source.load_model(tokenizer, seed).score.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert model_facts(source.load_model(tokenizer, 0)).fresh_head
    assert heads[0].std().item() == pytest.approx((32 + 1) ** -0.5, rel=0.5)


def test_embeddings_grow_with_an_added_pad_token(scored):
    _, tokenizer, _ = scored
    model = from_conf("model/tiny").load_model(tokenizer, 0)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    grown = prepare_model(model, tokenizer, 0, fresh_head=True)
    assert grown.get_input_embeddings().num_embeddings == len(tokenizer)
    assert grown.config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.slow
def test_an_encoder_trains_in_padded_rows_and_is_exported(rmexp):
    """It looks ahead, so that it needs a mask, and pools otherwise than decoders do."""
    home = rmexp.folder / "encoder"
    config = transformers.BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(home)
    tiny_tokenizer().save_pretrained(home)
    rmexp(
        "model=hf", f"model.path={home}", "logger=none", "data.limit=40", "data.max_length=512",
        "trainer.precision=32-true", "optim.lr=1e-3",
    )  # fmt: skip
    (run,) = rmexp.runs()
    found = result(run)
    assert found["layout"] == "padded"
    assert any("its head does not read one token" in said for said in found["fallbacks"])
    (again,) = rmexp_score(rmexp, run, [{"prompt": "Hi", "response": "Hello"}])
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(run / "export")
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "export")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    inputs = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")
    assert theirs.eval()(**inputs).logits.item() == pytest.approx(again["reward"], abs=1e-4)


def rmexp_score(rmexp, run, rows):
    """The lines that task=score writes for some rows."""
    (rmexp.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rmexp(
        "task=score", f"checkpoint={run}", "data.path=rows.jsonl", "out=scores.jsonl",
        "trainer.precision=32-true",
    )  # fmt: skip
    return [json.loads(line) for line in (rmexp.folder / "scores.jsonl").read_text().splitlines()]


def test_a_model_with_two_outputs_is_no_reward_model():
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    with pytest.raises(UserError, match="has no head that gives one reward"):
        prepare_model(transformers.BertForSequenceClassification(config), tiny_tokenizer(), 0, True)


def test_models_that_number_positions_by_index_must_be_padded_right(tmp_path):
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64, num_labels=1
    )
    model = prepare_model(
        transformers.GPT2ForSequenceClassification(config), tokenizer, 0, True
    ).eval()
    ids = tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        batch = Collate(0, 10**9, BatchLayout("padded"))([toy_row(ids)]).batches[0]
        values = compute_rewards(model, batch).tolist()
    with pytest.warns(UserWarning, match="must pad on the right"):
        export(model, tokenizer, TEXTS, values, FACTS, tmp_path / "e")
