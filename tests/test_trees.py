"""Token trees: the layout computes what padded rows compute, for models that allow it."""

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from rmexp.batches import Collate
from rmexp.errors import UserError
from rmexp.layout import choose_layout, probe, refuse
from rmexp.losses import BradleyTerry
from rmexp.model import Tiny, prepare, rewards
from rmexp.module import normalised
from rmexp.trees import Tree, grow
from tests.toys import tiny_tokenizer, toy_row

TOKENIZER = tiny_tokenizer()


def test_grow_by_hand():
    tree, packed = grow([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 6]])
    assert tree == Tree(trunk=2, branches=(2, 1, 2))
    assert packed == [1, 2, 3, 4, 5, 3, 6]
    assert tree.positions().tolist() == [0, 1, 2, 3, 2, 2, 3]
    assert tree.segments().tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert tree.ends().tolist() == [3, 4, 6]


def test_a_response_that_is_the_start_of_another_keeps_a_branch():
    assert grow([[1, 2], [1, 2, 3]])[0] == Tree(1, (1, 2))


def test_a_lone_response_is_one_branch():
    assert grow([[1, 2, 3]])[0] == Tree(0, (3,))


sequences = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=5)


@given(sequences)
def test_a_tree_gives_back_its_sequences(group):
    tree, packed = grow(group)
    segments, positions = tree.segments(), tree.positions()
    assert len(packed) == tree.size == len(segments) == len(positions)
    for k, sequence in enumerate(group):
        seen = (segments == 0) | (segments == k + 1)
        assert np.array(packed)[seen].tolist() == sequence
        assert positions[seen].tolist() == list(range(len(sequence)))
        assert packed[tree.ends()[k]] == sequence[-1]


def losses_and_gradients(model, rows, layout, tokens=10**9):
    model.zero_grad()
    step = Collate(0, tokens, layout)(rows)
    loss, found = BradleyTerry(), {}
    totals = loss.total_weights(step.batches)
    for batch in step.batches:
        rewards_N = rewards(model, batch)
        normalised(loss(rewards_N, batch), totals).backward()
        for item, reward in zip(batch.items_N.tolist(), rewards_N.tolist(), strict=True):
            found.setdefault(item, []).append(reward)
    return found, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def assert_same(model, rows, tokens=10**9):
    model.eval()
    one, one_gradient = losses_and_gradients(model, rows, "padded")
    two, two_gradient = losses_and_gradients(model, rows, "tree", tokens)
    for item, values in one.items():
        assert two[item] == pytest.approx(values, abs=1e-4)
    # The absolute part is for gradients that cancel to nothing but rounding.
    assert (one_gradient - two_gradient).norm() <= 1e-4 * one_gradient.norm() + 2e-5


@pytest.fixture(scope="module")
def tiny():
    return Tiny().load_model(TOKENIZER, seed=0)


@given(
    st.lists(
        st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=14), min_size=2, max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_random_trees_equal_padded_rows(tiny, groups):
    rows = [toy_row(group, row=n) for n, group in enumerate(groups)]
    assert_same(tiny, rows)


FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 4},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 4},
    "phi3": {"pad_token_id": 0},
    "olmo2": {},
    "gpt_neox": {},
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
    },
}


def small(family, **options):
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
        }
        | options,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    return prepare(model, TOKENIZER, 0, fresh_head=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_trees_are_exact_for(family):
    model = small(family, **FAMILIES[family])
    assert refuse(model) is None
    assert probe(model) is None
    rng = np.random.default_rng(0)
    trunk = rng.integers(3, 200, 11).tolist()
    rows = [
        toy_row([trunk + rng.integers(3, 200, n).tolist() for n in lengths], row=r)
        for r, lengths in enumerate([(5, 9), (3, 1, 7, 8)])
    ]
    rows.append(toy_row([[5, 6, 7], [8, 9]], row=2))  # nothing shared
    assert_same(model, rows)
    assert_same(model, rows, tokens=40)


def test_attention_dropout_goes_padded_and_says_so():
    model = Tiny(dropout=0.1).load_model(TOKENIZER, seed=0)
    with pytest.warns(UserWarning, match="Training in padded rows, .* attention has dropout"):
        assert choose_layout(model, "auto") == "padded"
    with pytest.raises(UserError, match=r"take model\.layout=padded"):
        choose_layout(model, "tree")


def test_a_model_that_cannot_do_trees_goes_padded():
    model = small("bloom", hidden_size=32, n_layer=2, n_head=4)
    with pytest.warns(UserWarning, match="Training in padded rows"):
        assert choose_layout(model, "auto") == "padded"


def test_micro_batches_do_not_change_the_update(tiny):
    """A step cut into micro-batches with different pair counts is the update of one large batch."""
    rng = np.random.default_rng(1)
    rows = []
    for r, k in enumerate([2, 4, 3, 2]):
        tokens = [rng.integers(3, 200, rng.integers(4, 20)).tolist() for _ in range(k)]
        pairs = [(i, j, 1) for i in range(k) for j in range(i)]
        rows.append(toy_row(tokens, pairs, row=r, weights=rng.uniform(0.5, 2, len(pairs))))
    for layout in ("padded", "tree"):
        whole, whole_gradient = losses_and_gradients(tiny, rows, layout)
        for budget in (1, 60, 120):
            cut, cut_gradient = losses_and_gradients(tiny, rows, layout, budget)
            assert len(Collate(0, budget, layout)(rows).batches) > 1
            for item, values in whole.items():
                assert cut[item] == pytest.approx(values, abs=1e-5)
            assert (whole_gradient - cut_gradient).norm() <= 1e-5 * whole_gradient.norm()
