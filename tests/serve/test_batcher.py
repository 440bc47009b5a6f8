"""Dynamic batching: which texts share a tree, and that rewards do not depend on it."""

import itertools
import threading
from concurrent.futures import wait

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmexp.batching.prefix_groups import common_prefix, prefix_groups
from rmexp.batching.prefix_tree import PrefixTreeBuilder
from rmexp.serve.batcher import Batcher, QueueFull, choose_batch
from tests.helpers.servers import wait_until

TOKENS = st.lists(st.integers(3, 5), min_size=1, max_size=12).map(tuple)
SEQUENCES = st.lists(TOKENS, min_size=1, max_size=12, unique=True)


def tree_size(sequences):
    return PrefixTreeBuilder().with_sequences(sequences).size


@given(TOKENS, TOKENS)
def test_common_prefix(one, other):
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    assert common_prefix(one, other) == len(list(pairs))


@given(SEQUENCES)
def test_groups_hold_each_sequence_once_and_never_cost_tokens(sequences):
    groups = prefix_groups(sequences)
    assert sorted(itertools.chain.from_iterable(groups)) == list(range(len(sequences)))
    assert groups == sorted(map(sorted, groups))
    grouped = sum(tree_size([sequences[n] for n in group]) for group in groups)
    assert grouped <= min(sum(map(len, sequences)), tree_size(sequences))


def test_responses_to_a_prompt_are_a_group_and_the_rest_shares_the_beginning():
    system = (1, 2)
    texts = [(*system, prompt, *range(20, 30), k) for k in range(3) for prompt in (7, 8)]
    lone = [(*system, 9, 30), (*system, 10, 31)]
    groups = prefix_groups([lone[0], *texts, lone[1]])
    assert groups == [[0, 7], [1, 3, 5], [2, 4, 6]]


@given(SEQUENCES, st.integers(1, 40), st.booleans())
def test_a_batch_has_the_oldest_and_fits(sequences, budget, trees):
    batch, tokens = choose_batch(sequences, budget, trees)
    chosen = list(itertools.chain.from_iterable(batch))
    assert 0 in chosen
    assert len(chosen) == len(set(chosen))
    size = sum(tree_size([sequences[n] for n in group]) for group in batch)
    assert tokens == size
    assert size <= budget or len(chosen) == 1
    if sum(map(len, sequences)) <= budget:
        assert len(chosen) == len(sequences)


@settings(max_examples=25)
@given(st.lists(st.text("ab", min_size=1, max_size=30), min_size=1, max_size=10), st.booleans())
def test_a_reward_does_not_depend_on_its_batch(scorer, texts, small):
    tokens = [tuple(ids) for ids in scorer.tokenizer(texts)["input_ids"]]
    alone = [scorer.trees([[ids]])[0][0] for ids in tokens]
    distinct = list(dict.fromkeys(tokens))
    found, left = {}, distinct
    while left:
        groups, _ = choose_batch(left, 40 if small else 4096, trees=True)
        batch = [[left[n] for n in group] for group in groups]
        for group, rewards in zip(batch, scorer.trees(batch), strict=True):
            found |= dict(zip(group, rewards, strict=True))
        left = [ids for ids in left if ids not in found]
    assert [found[ids] for ids in tokens] == pytest.approx(alone, abs=1e-4)


class FakeScorer:
    """The reward of a sequence is its sum; `gate` holds the batches up."""

    micro_batch_tokens, layout, has_details = 100, "mixed", False

    def __init__(self):
        self.gate, self.batches = threading.Event(), []
        self.gate.set()

    def inference(self):
        return threading.Lock()  # a context manager

    def trees(self, trees):
        self.batches.append(trees)
        self.gate.wait()
        if any(13 in ids for tree in trees for ids in tree):
            raise MemoryError("13")
        return [[float(sum(ids)) for ids in tree] for tree in trees]


@pytest.fixture
def fake():
    return FakeScorer()


@pytest.fixture
def batcher(fake):
    batcher = Batcher(fake, queue_texts=8, wait_seconds=0.0)
    yield batcher
    fake.gate.set()
    batcher.close()


def hold(batcher, fake):
    """Let the batcher run a batch that does not end; returns its future."""
    fake.gate.clear()
    (running,) = batcher.submit([(1,)])
    wait_until(lambda: fake.batches)
    return running


def test_equal_texts_are_computed_once(batcher, fake):
    running = hold(batcher, fake)
    futures = batcher.submit([(2, 3), (2, 3), (1,), (4,)])
    fake.gate.set()
    assert [future.result() for future in futures] == [5.0, 5.0, 1.0, 4.0]
    assert running.result() == 1.0
    assert sorted(ids for tree in fake.batches[1] for ids in tree) == [(2, 3), (4,)]


def test_cancelled_texts_are_dropped_unless_someone_else_wants_them(batcher, fake):
    hold(batcher, fake)
    gone, kept = batcher.submit([(2,), (3,)])
    (other,) = batcher.submit([(3,)])
    assert batcher.waiting == 3
    assert gone.cancel()
    assert kept.cancel()
    assert batcher.waiting == 1
    fake.gate.set()
    assert other.result() == 3.0
    assert fake.batches[1:] == [[[(3,)]]]


def test_a_full_queue_takes_all_texts_of_a_request_or_none(batcher, fake):
    hold(batcher, fake)
    batcher.submit([(n,) for n in range(2, 9)])
    with pytest.raises(QueueFull):
        batcher.submit([(20,), (21,)])
    assert batcher.waiting == 7
    batcher.submit([(20,)])


def test_an_error_reaches_the_texts_of_its_batch_alone(batcher):
    (bad,) = batcher.submit([(13,)])
    with pytest.raises(MemoryError):
        bad.result()
    assert batcher.submit([(5,)])[0].result() == 5.0


def test_texts_wait_for_others_and_no_longer_than_a_batch_takes_to_fill(fake):
    batcher = Batcher(fake, queue_texts=8, wait_seconds=1000.0)
    first = batcher.submit([(1,)])
    assert not fake.batches
    rest = batcher.submit([(2,) * 50, (3,) * 49])
    wait([*first, *rest])
    assert [sorted(map(len, itertools.chain(*batch))) for batch in fake.batches] == [[1, 49, 50]]
    batcher.close()


def test_closing_computes_what_waits(fake):
    batcher = Batcher(fake, queue_texts=8, wait_seconds=1000.0)
    futures = batcher.submit([(1,), (2,)])
    batcher.close()
    assert [future.result() for future in futures] == [1.0, 2.0]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit([(3,)])


def test_texts_that_begin_with_each_other_are_one_tree():
    """The steps of an answer: as deep as a batch may be."""
    chain = [(7,) * (n + 1) for n in range(256)]
    assert prefix_groups(chain) == [list(range(256))]
    assert tree_size(chain) == 256
