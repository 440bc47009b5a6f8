"""Every model family: trees give the padded rewards and gradients, or the step runs padded.

Each is built small from a configuration; nothing is fetched.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_layers import GenericForSequenceClassification

import rmexp
from rmexp.batching.collate import BatchLayout, Collate
from rmexp.core.errors import UserError
from rmexp.models.final_layer import per_token_parts
from rmexp.models.layout_probe import (
    check_layout,
    choose_layout,
    probe_layout,
    restrict_final_layer,
)
from rmexp.models.model_checks import check_padding, length_dependent, max_positions
from rmexp.models.reward_model import (
    compute_rewards,
    last_layer,
    prepare_model,
)
from rmexp.models.tuning import LoRA, layers
from rmexp.training.setup import open_model
from rmexp.training.step_terms import normalise_terms
from tests.helpers.options import from_conf
from tests.helpers.servers import write_model
from tests.helpers.toys import tiny_tokenizer, toy_row

TOKENIZER = tiny_tokenizer()
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
GPT2 = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
EXACT = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 4},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 4},
    "gemma3_text": {"head_dim": 8, "sliding_window": 4, "sliding_window_pattern": 2},
    "phi": {},
    "phi3": {"pad_token_id": 0},
    "olmo2": {},
    "granite": {},
    "smollm3": {"pad_token_id": 0},
    "cohere2": {"sliding_window": 4},
    "glm4": {"head_dim": 8, "pad_token_id": 0},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4} | GPT2,
    "opt": {
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    },
    "starcoder2": {"residual_dropout": 0.0, "embedding_dropout": 0.0, "sliding_window": 4},
    "exaone4": {"sliding_window": 4, "sliding_window_pattern": 2},
    "modernbert-decoder": {"local_attention": 8, "pad_token_id": 0},
    "mixtral": EXPERTS,
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "head_dim": 8,
    },
    "gpt_oss": EXPERTS | {"head_dim": 8, "sliding_window": 4},
    "deepseek_v3": LATENT | {"n_shared_experts": 1, "first_k_dense_replace": 1},
}
PADDED = {
    "mamba": {"state_size": 4},
    "bloom": {"n_layer": 2, "n_head": 4},
    "llama4_text": EXPERTS
    | {"head_dim": 8, "attention_chunk_size": 4, "intermediate_size_mlp": 64},
    "qwen3_next": {
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "stablelm": {},
    # They apply their window in the mask alone.
    "qwen2_moe": EXACT["qwen2_moe"]
    | {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2},
    "phimoe": EXPERTS | {"sliding_window": 32},
    "falcon": {"alibi": False},
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "roberta": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "deberta-v2": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "modernbert": {"pad_token_id": 0, "global_attn_every_n_layers": 2, "local_attention": 8},
}


def small(family, **options):
    """A model of the family with a fresh head; where it has no classifier of its own, ours."""
    config = transformers.AutoConfig.for_model(
        family,
        **{
            "vocab_size": len(TOKENIZER),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "num_labels": 1,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        | options,
    )
    auto = transformers.AutoModelForSequenceClassification
    torch.manual_seed(0)
    if type(config) in auto._model_mapping:
        model = auto.from_config(config, dtype=torch.float32)
    else:
        base = transformers.AutoModel._model_mapping[type(config)]
        own = next(kind for kind in base.__mro__ if kind.__name__.endswith("PreTrainedModel"))
        kind = type(f"{family}Classifier", (GenericForSequenceClassification, own), {})
        model = kind(config).float()
    with torch.no_grad():  # some families start at zero, where no difference would be seen
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return prepare_model(model, TOKENIZER, 0, fresh_head=True)


def comparisons():
    """K of 2 and 4, the same response twice, equal prompts, nothing shared."""
    rng = np.random.default_rng(0)

    def some(count):
        return rng.integers(3, 200, count).tolist()

    trunk = some(11)
    rows = [
        toy_row([trunk + some(n) for n in lengths], row=r)
        for r, lengths in enumerate([(5, 9), (3, 1, 7, 8)])
    ]
    again = rows[0]["tokens"][1]
    rows.append(toy_row([again, trunk + some(4)], row=2) | {"prompt_key": "0"})
    rows.append(toy_row([some(3), some(2)], row=3))
    return rows


def losses_and_gradients(model, rows, layout, tokens=10**9):
    """Rewards by row, and the gradient of a step."""
    model.zero_grad()
    step = Collate(0, tokens, BatchLayout(layout))(rows)
    loss, found = from_conf("loss/bradley_terry"), {}
    totals = loss.total_weights(step.batches)
    for batch in step.batches:
        rewards_N = compute_rewards(model, batch)
        normalise_terms(loss(rewards_N, batch), totals).backward()
        for item, reward in zip(batch.items_N.tolist(), rewards_N.tolist(), strict=True):
            found.setdefault(item, []).append(reward)
    return found, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def assert_same(model, rows, tokens=10**9):
    """The two layouts agree to 1e-4; returns the norm of the gradient."""
    one, one_gradient = losses_and_gradients(model, rows, "padded")
    two, two_gradient = losses_and_gradients(model, rows, "tree", tokens)
    for item, values in one.items():
        assert two[item] == pytest.approx(values, abs=1e-4)
    # The absolute part is for gradients that cancel to nothing but rounding.
    assert (one_gradient - two_gradient).norm() <= 1e-4 * one_gradient.norm() + 2e-5
    return one_gradient.norm()


@torch.no_grad()
def alone(model, ids):
    """The reward of one sequence without any padding, as Hugging Face computes it."""
    tokens = torch.tensor([ids])
    if type(model).__module__.startswith("transformers."):
        return model(tokens, attention_mask=torch.ones_like(tokens)).logits.item()
    return model.score(model.model(tokens).last_hidden_state[0, -1]).item()


@pytest.mark.parametrize("family", EXACT)
def test_trees_are_exact(family, tmp_path):
    model = small(family, **EXACT[family])
    assert check_layout(model) is None
    assert probe_layout(model) is None
    model.eval()
    assert assert_same(model, comparisons()) > 1e-2
    assert_same(model, comparisons(), tokens=40)
    model.train()
    for reentrant in (True, False):
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        assert_same(model, comparisons())
    model.activation_checkpointing_disable()
    model.eval()
    if type(model).__module__.startswith("transformers."):  # else there is nothing to load it with
        model.save_pretrained(tmp_path)
        exported = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
        found, _ = losses_and_gradients(model, comparisons(), "tree")
        for row in comparisons():
            expected = [alone(exported.eval(), ids) for ids in row["tokens"]]
            assert found[row["row"]] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", PADDED)
def test_where_trees_would_be_wrong_rows_are_padded(family):
    model = small(family, **PADDED[family])
    check_padding(model, 0)
    with pytest.warns(UserWarning, match="Training in padded rows, as token trees are not exact"):
        assert choose_layout(model, "auto") == "padded"
    with pytest.raises(UserError, match=r"take model\.layout=padded"):
        choose_layout(model, "tree")
    model.eval()
    rows = comparisons()
    whole, whole_gradient = losses_and_gradients(model, rows, "padded")
    cut, cut_gradient = losses_and_gradients(model, rows, "padded", tokens=40)
    for item, values in whole.items():
        assert cut[item] == pytest.approx(values, abs=1e-4)
        for ids, value in zip(rows[item]["tokens"], values, strict=True):
            assert alone(model, ids) == pytest.approx(value, abs=1e-4)
    assert (whole_gradient - cut_gradient).norm() <= 1e-4 * whole_gradient.norm() + 2e-5


ENCODERS = {"bert", "roberta", "deberta-v2", "modernbert"}


@pytest.mark.parametrize(("family", "options"), [*EXACT.items(), *PADDED.items()])
def test_the_final_layer_computes_only_what_the_head_reads(family, options):
    model = small(family, **options)
    layouts = ["padded", "tree"] if family in EXACT else ["padded"]
    model.eval()
    whole = [losses_and_gradients(model, comparisons(), layout) for layout in layouts]
    restrict_final_layer(model)
    assert (last_layer(model).read is None) == (family in ENCODERS)
    seen = []
    for part in per_token_parts(layers(model)[-1]) if family not in ENCODERS else ():
        part.register_forward_hook(lambda _, args, output: seen.append(args[0].shape[1]))
    for checkpointing in (False, True):
        if checkpointing:
            model.train()
            model.activation_checkpointing_enable({"use_reentrant": False})
        for layout, (rewards, gradient) in zip(layouts, whole, strict=True):
            found, found_gradient = losses_and_gradients(model, comparisons(), layout)
            for item, values in rewards.items():
                assert found[item] == pytest.approx(values, abs=1e-5)
            difference = (gradient - found_gradient).norm()
            assert difference <= 1e-5 * gradient.norm() + 2e-6
    responses = sum(len(row["tokens"]) for row in comparisons())
    assert set(seen) <= {responses}


def test_training_and_scoring_restrict_the_final_layer(tmp_path):
    source = from_conf("model/tiny")
    data = SimpleNamespace(longest=lambda: 8)
    prepared = SimpleNamespace(tokenizer=source.load_tokenizer(), data=data)
    trained, _ = open_model(source, prepared, 0, "cpu", LoRA(2, None, 0.0, "all-linear", False))
    scorer = rmexp.load(write_model(tmp_path / "model"), precision="32-true")
    batch = Collate(0, 10**9, BatchLayout("tree"))(comparisons()).batches[0]
    for model in (trained, scorer.model):
        seen = []
        for part in per_token_parts(layers(model)[-1]):
            part.register_forward_hook(lambda _, args, output, to=seen: to.append(args[0].shape[1]))
        compute_rewards(model, batch)
        assert seen == [len(batch.end_N)] * 3  # of query, attention output and MLP


def test_positions_are_counted_as_the_model_places_them():
    assert max_positions(small("llama")) == 128
    assert max_positions(small("bert")) == 128
    assert max_positions(small("roberta", pad_token_id=1)) == 126


def test_dropout_anywhere_rules_trees_out():
    model = small("gpt2", n_embd=32, n_layer=2, n_head=4)
    assert check_layout(model) == "it has dropout (attn_pdrop=0.1)"


def test_rotary_embeddings_that_change_with_length_are_said():
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0} | factors
    model = small("phi3", pad_token_id=0, rope_parameters=rope, original_max_position_embeddings=64)
    assert length_dependent(model, 64) is None
    assert "data.max_length=64 avoids that" in length_dependent(model, 65)
    assert length_dependent(small("llama"), 10**6) is None


def test_padded_rows_are_never_wider_than_the_model_has_places():
    rows = [toy_row([[5] * 126, [6] * 3])]
    batch = Collate(0, 10**9, BatchLayout("padded", max_positions=126))(rows).batches[0]
    assert batch.tokens_R_T.shape == (2, 126)
    model = small("roberta", pad_token_id=1, **PADDED["roberta"])
    assert max_positions(model) == 126
    assert compute_rewards(model, batch).shape == (2,)
