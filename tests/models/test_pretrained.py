"""Which weights a seed draws when a checkpoint is loaded."""

import transformers

from rmexp.models.reward_model import model_facts
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer
from tests.models.test_families import TOKENIZER


def test_a_pooler_or_new_embeddings_are_drawn_by_the_seed_too(tmp_path):
    config = transformers.BertConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    from_conf("model/tiny").load_model(tiny_tokenizer(), 0).model.save_pretrained(
        tmp_path / "llama"
    )
    grown = tiny_tokenizer()
    grown.add_tokens(["<new>"])
    for path, tokenizer in (("bert", TOKENIZER), ("llama", grown)):
        model = from_conf("model/hf", path=str(tmp_path / path)).load_model(tokenizer, 0)
        assert not model_facts(model).only_head_drawn


def test_a_checkpoint_without_a_head_draws_the_head_alone(tmp_path):
    model = from_conf("model/tiny").load_model(tiny_tokenizer(), 0)
    model.model.save_pretrained(tmp_path)
    loaded = from_conf("model/hf", path=str(tmp_path)).load_model(tiny_tokenizer(), 0)
    assert model_facts(loaded).fresh_head
    assert model_facts(loaded).only_head_drawn
