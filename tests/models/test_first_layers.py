"""A model's first layers alone: the weights that are kept, its reward, and what is refused."""

import pytest
import torch
import transformers

from rmexp.core.errors import UserError
from tests.helpers.options import from_conf
from tests.models.test_families import EXACT, PADDED, TOKENIZER, small


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "bert"])
def test_the_first_layers_are_the_models_own(family, tmp_path):
    whole = small(family, **(EXACT | PADDED)[family])
    whole.save_pretrained(tmp_path / "whole")
    first = from_conf("model/hf", path=str(tmp_path / "whole"), layers=1).load_model(TOKENIZER, 0)
    weights, kept = whole.state_dict(), first.state_dict()
    assert 0 < len(kept) < len(weights)
    assert all(torch.equal(kept[name], weights[name]) for name in kept)
    first.save_pretrained(tmp_path / "first")
    exported, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "first", output_loading_info=True
    )
    assert not any(info.values())
    tokens = torch.tensor([[1, 5, 9, 2]])
    assert torch.equal(exported.eval()(tokens).logits, first.eval()(tokens).logits)


def test_the_last_kept_layer_is_followed_by_the_final_norm(tmp_path):
    whole = small("llama")
    whole.save_pretrained(tmp_path)
    first = from_conf("model/hf", path=str(tmp_path), layers=1).load_model(TOKENIZER, 0)
    tokens = torch.tensor([[1, 5, 9, 2]])
    after_one = whole.model(tokens, output_hidden_states=True).hidden_states[1]
    assert torch.equal(first.model(tokens).last_hidden_state, whole.model.norm(after_one))


def test_what_has_no_such_layers_is_refused(tmp_path):
    small("llama").save_pretrained(tmp_path)
    source = from_conf("model/hf", path=str(tmp_path), layers=3)
    with pytest.raises(UserError, match=r"^model.layers=3: model.path=.* has 2 layers; null keeps"):
        source.skeleton()
