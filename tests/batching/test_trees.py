"""Token trees: the layout computes what padded rows compute, for models that allow it."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from rmexp.batching import prefix_tree
from rmexp.batching.collate import BatchLayout, Collate
from rmexp.batching.prefix_tree import PrefixTreeBuilder, Tree, tree_size
from rmexp.core.errors import UserError
from rmexp.models.layout_probe import choose_layout
from rmexp.models.reward_model import compile_layers
from rmexp.models.tree_attention import (
    MASK_BLOCK,
    TREE_ATTENTION,
    TreeRow,
    _rule,
    tree_attention,
)
from tests.conftest import SHORT_DEMO
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer, toy_row
from tests.models.test_families import assert_same, losses_and_gradients

TOKENIZER = tiny_tokenizer()


def grow(sequences):
    """The tree of some token sequences, its packed tokens, and where each sequence ends."""
    growth = PrefixTreeBuilder().with_sequences(sequences)
    tree, packed = growth.packed()
    return tree, packed, growth.ends(tree, sequences)


def test_grow_by_hand():
    tree, packed, ends = grow([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 6], [1, 2, 5]])
    assert tree == Tree(shared_prefix=2, branches=(2, 1, 2))
    assert ends == [3, 4, 6, 4]  # the same response is there once
    assert packed == [1, 2, 3, 4, 5, 3, 6]
    assert tree.positions().tolist() == [0, 1, 2, 3, 2, 2, 3]
    assert tree.segments().tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert tree.ends().tolist() == [3, 4, 6]


def test_a_response_that_is_the_start_of_another_is_read_inside_of_it():
    tree, packed, ends = grow([[1, 2], [1, 2, 3, 4], [1, 2, 3], [1, 5], [1]])
    assert tree == Tree(1, (3, 1))
    assert packed == [1, 2, 3, 4, 5]
    assert ends == [1, 3, 2, 4, 0]


def test_a_lone_response_is_one_branch():
    assert grow([[1, 2, 3]])[0] == Tree(0, (3,))


sequences = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=5)


@given(sequences, sequences)
def test_a_tree_never_grows_by_less_than_the_least_growth(group, more):
    tree = PrefixTreeBuilder().with_sequences(group)
    assert tree.least_growth(more) <= tree.with_sequences(more).size - tree.size
    assert tree.least_growth(group) == 0
    for few in (group[:2], group):
        assert tree_size(few) == PrefixTreeBuilder().with_sequences(few).size


@given(sequences)
def test_a_tree_gives_back_its_sequences(group):
    tree, packed, ends = grow(group)
    distinct = set(map(tuple, group))
    starts = {one for one in distinct for other in distinct if one == other[: len(one)] != other}
    assert len(tree.branches) == len(distinct - starts)
    segments, positions = tree.segments(), tree.positions()
    assert len(packed) == tree.size == len(segments) == len(positions)
    for end, sequence in zip(ends, group, strict=True):
        seen = ((segments == 0) | (segments == segments[end])) & (positions <= positions[end])
        assert np.array(packed)[seen].tolist() == sequence
        assert positions[seen].tolist() == list(range(len(sequence)))


@pytest.fixture(scope="module")
def tiny():
    return from_conf("model/tiny").load_model(TOKENIZER, seed=0)


@pytest.mark.slow
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


def test_attention_dropout_goes_padded_and_says_so():
    model = from_conf("model/tiny", dropout=0.1).load_model(TOKENIZER, seed=0)
    with pytest.warns(UserWarning, match="Training in padded rows, .* it has dropout"):
        assert choose_layout(model, "auto") == "padded"
    with pytest.raises(UserError, match=r"take model\.layout=padded"):
        choose_layout(model, "tree")


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
            assert len(Collate(0, budget, BatchLayout(layout))(rows).batches) > 1
            for item, values in whole.items():
                assert cut[item] == pytest.approx(values, abs=1e-5)
            assert (whole_gradient - cut_gradient).norm() <= 1e-5 * whole_gradient.norm()


def test_the_mixed_layout_pads_where_trees_save_nothing(tiny):
    def ids(start, count):
        return list(range(start, start + count))

    apart = [toy_row([ids(0, 40), ids(50, 38)])]
    together = [toy_row([ids(0, 40), ids(0, 30) + ids(50, 8)])]
    uneven = [toy_row([ids(0, 40), ids(50, 8)])]
    for rows, padded in ((apart, True), (together, False), (uneven, False)):
        (batch,) = Collate(0, 10**9, BatchLayout("mixed"))(rows).batches
        assert (batch.trees is None) is padded
        mixed, mixed_gradient = losses_and_gradients(tiny, rows, "mixed")
        tree, tree_gradient = losses_and_gradients(tiny, rows, "tree")
        assert mixed[0] == pytest.approx(tree[0], abs=1e-5)
        assert (mixed_gradient - tree_gradient).norm() <= 1e-5 * tree_gradient.norm()


def packed_tokens(rows, tokens=10**9, layout="tree"):
    """(tokens of each micro-batch, the rows in each)."""
    step = Collate(0, tokens, BatchLayout(layout))(rows)
    return [
        (
            sum(tree.size for tree in batch.trees) if batch.trees else batch.tokens_R_T.numel(),
            sorted(set(batch.items_N.tolist())),
        )
        for batch in step.batches
    ]


def test_comparisons_of_one_prompt_share_a_tree():
    """Three pairs of three responses to one prompt: each response is there once."""
    a, b, c = [1, 2, 3], [1, 2, 4, 5], [1, 2, 6]
    rows = [toy_row(pair, row=n) for n, pair in enumerate([(a, b), (b, c), (a, c)])]
    for row in rows:
        row["prompt_key"] = "same"
    assert packed_tokens(rows) == [(2 + 1 + 2 + 1, [0, 1, 2])]
    # Apart, each pair costs its trunk and both branches.
    for n, row in enumerate(rows):
        row["prompt_key"] = str(n)
    assert packed_tokens(rows) == [(2 * 3 + 3 + 3 + 2, [0, 1, 2])]


def test_a_prompt_that_does_not_fit_is_cut_into_trees():
    """First fit: what costs nothing more joins the tree that has it already."""
    a, b, c = [1, 2, 3], [1, 2, 4, 5], [1, 2, 6]
    rows = [toy_row(pair, row=n) for n, pair in enumerate([(a, b), (b, c), (a, b)])]
    for row in rows:
        row["prompt_key"] = "same"
    assert packed_tokens(rows, tokens=5) == [(5, [0, 2]), (5, [1])]


def test_comparisons_whose_tree_would_be_larger_stay_apart():
    """Two pairs of one prompt, each an answer and its edit: they share more than the prompt."""
    rows = [toy_row([[1, 2, *[9 + n] * 50, 3], [1, 2, *[9 + n] * 50, 4]], row=n) for n in range(2)]
    for row in rows:
        row["prompt_key"] = "same"
    assert packed_tokens(rows) == [(2 * (52 + 1 + 1), [0, 1])]


def test_shapes_are_few_however_lengths_vary():
    """Kernels are set up once a shape: after some steps there are no new ones."""
    rng = np.random.default_rng(0)
    seen, sizes = set(), []
    for _ in range(200):
        packed = [Tree(int(rng.integers(20, 200)), tuple(rng.integers(5, 90, 2))) for _ in range(8)]
        row = prefix_tree.row_width(sum(int(tree.size) for tree in packed))
        for block in prefix_tree.attention_blocks(packed, None):
            keys = sum(length for _, length in block.keys)
            seen.add((block.width, keys))
            assert block.start + block.width <= row
            assert all(start + length <= row for start, length in block.keys)
        sizes.append(len(seen))
    assert sizes[-1] == sizes[99] < 120


def test_rewards_do_not_depend_on_the_grouping(tiny):
    rng = np.random.default_rng(3)
    answers = [[7, 8, 9, *rng.integers(3, 200, n).tolist()] for n in (3, 9, 4, 6)]
    pairs = [(i, j) for i in range(4) for j in range(i)]
    rows = [toy_row([answers[i], answers[j]], row=n) for n, (i, j) in enumerate(pairs)]
    for row in rows:
        row["prompt_key"] = "same"
    tiny.eval()
    assert_same(tiny, rows)
    assert_same(tiny, rows, tokens=24)


def test_a_lone_comparison_above_the_budget_is_a_micro_batch(tiny):
    rows = [toy_row([[1] * 30, [2] * 30]), toy_row([[3], [4]], row=1)]
    assert [items for _, items in packed_tokens(rows, tokens=10)] == [[0], [1]]


def test_padded_rows_are_sorted_and_equal_ones_are_there_once():
    rows = [toy_row([[1] * 9, [2] * 9]), toy_row([[3], [4]], row=1), toy_row([[3], [4] * 8], row=2)]
    assert packed_tokens(rows, tokens=40, layout="padded") == [(2 * 16, [0]), (3 * 8, [1, 2])]


shapes = st.lists(
    st.builds(
        Tree,
        st.integers(0, 50),
        st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@settings(max_examples=12)
@given(
    shapes,
    st.sampled_from([None, 1, 5, 40]),
    st.sampled_from([16, 64]),
    st.sampled_from([None, 0.5]),
    st.booleans(),
)
def test_the_kernels_agree(shapes, window, longest, softcap, with_sinks):
    """Blocks, fused, SDPA with a dense mask, FlexAttention (without a backward pass on a CPU)."""
    row = prefix_tree.row_width(sum(tree.size for tree in shapes))
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, heads, row, 8, generator=generator) for heads in (4, 2, 2)]
    upstream = torch.randn(1, row, 4, 8, generator=generator)
    used = sum(tree.size for tree in shapes)
    upstream[:, used:] = 0
    sinks = torch.tensor([-1.0, 0.0, 1.0, 3.0]) if with_sinks else None
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_tree, "QUERIES", longest)
        patch.setattr("rmexp.models.tree_attention._flex", lambda: flex_attention)
        for kernel in ("blocks", "flash", "flex", "sdpa"):
            q, k, v = (x.clone().requires_grad_(kernel != "flex") for x in inputs)
            trees_of_row = TreeRow(shapes, row, "cpu", kernel)
            out, _ = tree_attention(
                torch.nn.Module(), q, k, v, None, sliding_window=window, softcap=softcap,
                s_aux=sinks, trees=trees_of_row,
            )  # fmt: skip
            found[kernel] = [out[:, :used].detach()]
            if kernel != "flex":
                found[kernel] += torch.autograd.grad(out, (q, k, v), upstream)
    for kernel in ("flash", "flex", "sdpa"):
        for ours, theirs in zip(found["blocks"], found[kernel], strict=False):
            assert torch.allclose(ours, theirs, atol=2e-5)


def test_what_the_fused_kernel_cannot_compute_goes_to_blocks():
    """In fp32 a tree without a narrower window is fused; bf16, soft caps and sinks are not."""
    trees = TreeRow([Tree(2, (2, 3))], 64, "cpu")
    assert list(prefix_tree.attention_stretches(trees.trees)) == [
        (slice(0, 2), slice(0, 2), True),
        (slice(2, 4), slice(2, 4), True),
        (slice(4, 7), slice(4, 7), True),
        (slice(2, 7), slice(0, 2), False),
    ]
    q, k = torch.ones(1, 2, 64, 4), torch.ones(1, 1, 64, 4)
    sinks = torch.zeros(2)
    for options, kernel in (
        ({}, "flash"),
        ({"sliding_window": 5}, "flash"),
        ({"sliding_window": 4}, "blocks"),
        ({"softcap": 1.0}, "blocks"),
        ({"s_aux": sinks}, "blocks"),
    ):
        trees._made.clear()
        tree_attention(torch.nn.Module(), q, k, k, None, trees=trees, **options)
        assert [made for made, _ in trees._made] == [kernel]
    trees._made.clear()
    tree_attention(torch.nn.Module(), q, k, k.bfloat16(), None, trees=trees)
    assert [made for made, _ in trees._made] == ["blocks"]


@given(shapes, st.sampled_from([None, 1, 5, 40, 200]), st.sampled_from([4, 16, 128]))
def test_the_block_mask_is_the_dense_rule(shapes, window, block):
    row = prefix_tree.row_width(sum(tree.size for tree in shapes))
    trees_of_row = TreeRow(shapes, row, "cpu")
    dense = trees_of_row._seen(window)
    width = prefix_tree.bucketed(row, block)
    cells = torch.zeros(width, width).masked_fill_(F.pad(dense, (0, width - row) * 2), 1)
    counts = cells.unflatten(1, (-1, block)).unflatten(0, (-1, block)).sum((1, 3))
    found = torch.from_numpy(prefix_tree.visible_pairs(shapes, row, block, window))
    assert torch.equal(found, counts.long())
    if block == MASK_BLOCK:
        rule = _rule(trees_of_row._labels(), window)
        ours = trees_of_row._block_mask(window)
        torchs = create_block_mask(rule, None, None, row, row, device="cpu")
        assert torch.equal(ours.to_dense(), torchs.to_dense())
        assert torch.equal(ours.kv_num_blocks, torchs.kv_num_blocks)
        assert torch.equal(ours.full_kv_num_blocks, torchs.full_kv_num_blocks)


def test_weights_that_are_not_kept_are_made_again(monkeypatch, tiny):
    rows = [toy_row([[1, 2, 3, 4], [1, 2, 5]])]
    monkeypatch.setattr("rmexp.models.tree_attention.best_kernel", lambda device: "blocks")
    tiny.eval()
    kept = losses_and_gradients(tiny, rows, "tree")
    monkeypatch.setattr("rmexp.models.block_attention.KEPT_SCORES", 0)
    again = losses_and_gradients(tiny, rows, "tree")
    assert kept[0] == again[0]
    assert torch.equal(kept[1], again[1])


def test_the_layout_is_not_saved_with_the_model(tiny, tmp_path):
    losses_and_gradients(tiny, [toy_row([[1, 2, 3], [1, 2, 4]])], "tree")
    assert tiny.config._attn_implementation == TREE_ATTENTION
    tiny.save_pretrained(tmp_path)
    assert TREE_ATTENTION not in (tmp_path / "config.json").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method.* is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_layers_give_the_same():
    """model.compile: a fused layer rounds otherwise, no more than that."""
    rng = np.random.default_rng(0)
    rows = [toy_row([rng.integers(3, 200, n).tolist() for n in (9, 20)])]
    plain, compiled = (
        from_conf("model/tiny", layers=1).load_model(TOKENIZER, seed=0).eval() for _ in range(2)
    )
    compile_layers(compiled)
    for length in (3, 30):
        rows.append(toy_row([[5] * length, [6] * length], row=length))
        one, one_gradient = losses_and_gradients(plain, rows, "tree")
        two, two_gradient = losses_and_gradients(compiled, rows, "tree")
        for item, values in one.items():
            assert two[item] == pytest.approx(values, abs=1e-4)
        assert (one_gradient - two_gradient).norm() <= 1e-4 * one_gradient.norm()


@pytest.mark.slow
def test_options_that_change_the_cost_do_not_change_the_run(rmexp):
    """model.gradient_checkpointing, data.micro_batch_tokens and the layout, through the CLI."""
    options = ("seed=0", "model.gradient_checkpointing=true", "data.micro_batch_tokens=300",
               "model.layout=padded")  # fmt: skip
    for option in options:
        rmexp(
            "model=tiny", "logger=none", SHORT_DEMO, "data.limit=40", "trainer.precision=32-true",
            "trainer.validations=1", "optim.lr=1e-3", "data.max_length=300", option,
        )  # fmt: skip
    losses = []
    for run in rmexp.runs():
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        losses.append([line["train/loss"] for line in lines if "train/loss" in line])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], abs=1e-5)
