"""What a frozen part of a model gives is computed once, and is what it would give each time."""

import datasets
import numpy as np
import pytest
import torch

from rmexp.batching.activation_store import ActivationStore, ActivationWriter, unique_sequences
from rmexp.batching.collate import BatchLayout, Collate, unlabelled_row
from rmexp.models.layout_probe import choose_layout
from rmexp.models.reward_model import compute_rewards
from rmexp.models.tuning import Head, LastLayers
from rmexp.training.frozen_activations import load_or_compute, skip_frozen_layers
from tests.conftest import SHORT_DEMO, result
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer


def test_a_shared_start_is_kept_once(tmp_path):
    states = np.arange(10, dtype=np.float32).reshape(5, 2)
    writer = ActivationWriter(tmp_path, 2, pooled=False)
    start = writer.add(states)
    writer.add_sequence([1, 2, 3], start, 2, start + 2)
    writer.add_sequence([1, 2, 4, 5], start, 2, start + 3)
    writer.add_sequence([1, 2], start, 2, 0)
    assert not (tmp_path / "facts.json").exists()
    writer.finish()
    kept = ActivationStore.open(tmp_path)
    assert kept.of([1, 2, 3]).tolist() == states[:3].tolist()
    assert kept.of([1, 2, 4, 5]).tolist() == states[[0, 1, 3, 4]].tolist()
    assert kept.of([1, 2]).tolist() == states[:2].tolist()
    with pytest.raises(KeyError):
        kept.of([1])


def test_distinct_sequences_by_prompt():
    rows = [("a", [[1, 2], [3]]), ("a", [[3], [0]]), ("b", [[1, 2]])]
    assert list(unique_sequences(iter(rows), 2)) == [
        ("a", [(0,), (1, 2)]),
        ("a", [(3,)]),
        ("b", [(1, 2)]),
    ]


class Data:
    """As much of a `ComparisonData` as the store asks for."""

    def __init__(self, rows, layout, cache):
        sizes = [sum(map(len, row["tokens"])) for row in rows]
        self.rows = datasets.Dataset.from_list(
            [row | {"size": size} for row, size in zip(rows, sizes, strict=True)]
        )
        self.splits = {"train": np.arange(len(rows) - 1), "val": np.array([len(rows) - 1])}
        self.layout, self.cache = BatchLayout(layout), cache

    def collate(self, layout):
        return Collate(0, 200, layout)


def some_rows():
    draw = np.random.default_rng(0)
    rows = []
    for n in range(7):
        prompt = draw.integers(5, 250, draw.integers(1, 40)).tolist()
        tokens = [prompt + draw.integers(5, 250, draw.integers(1, 30)).tolist() for _ in range(3)]
        tokens.append(tokens[0][: len(prompt) + 1])  # the start of another
        rows.append(unlabelled_row(tokens, f"prompt {n % 5}") | {"row": n})
    return rows


@pytest.mark.parametrize("layout", ["mixed", "tree", "padded"])
@pytest.mark.parametrize("tune", [Head(1), LastLayers(1, 1), LastLayers(2, 1)], ids=repr)
def test_rewards_and_gradients_are_those_of_the_whole_model(tmp_path, layout, tune):
    model = from_conf("model/tiny", layers=3).load_model(tiny_tokenizer(), 0)
    tune(model, 0)
    choose_layout(model, layout if layout != "mixed" else "auto")
    rows = some_rows()
    data = Data(rows, layout, tmp_path)
    signs = torch.linspace(-1, 1, 4 * len(rows))

    def found(layout):
        model.zero_grad()
        parts = [(b.items_N, compute_rewards(model, b)) for b in data.collate(layout)(rows).batches]
        items, rewards_N = (torch.cat(part) for part in zip(*parts, strict=True))
        rewards_N = rewards_N[torch.argsort(items, stable=True)]
        (rewards_N * signs).sum().backward()
        return rewards_N.detach(), [p.grad.clone() for p in model.parameters() if p.requires_grad]

    plain_N, gradients = found(data.layout)
    kept = load_or_compute(model, data, data.layout, "32-true", tune.cache_gib, lambda *_: None)
    assert kept is not None
    assert kept.facts["from_cache"] is False
    assert kept.features.pooled == isinstance(tune, Head)
    names = set(model.state_dict())
    with skip_frozen_layers(model, data.layout, kept) as skipping:
        kept_N, with_kept = found(skipping)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(kept_N, plain_N, rtol=1e-5, atol=1e-6)
    for one, other in zip(with_kept, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert (
        load_or_compute(model, data, data.layout, "32-true", 1, lambda *_: None).facts["from_cache"]
        is True
    )


def test_other_weights_find_no_store(tmp_path):
    rows = some_rows()
    for seed in (0, 1):
        model = from_conf("model/tiny", layers=3, seed=seed).load_model(tiny_tokenizer(), 0)
        LastLayers(1, 1)(model, 0)
        data = Data(rows, "padded", tmp_path)
        kept = load_or_compute(model, data, data.layout, "32-true", 1, lambda *_: None)
        assert kept.facts["from_cache"] is False


def test_folds_share_a_store_and_a_store_that_is_there_needs_no_room(tmp_path):
    model = from_conf("model/tiny", layers=3).load_model(tiny_tokenizer(), 0)
    Head(1)(model, 0)
    data = Data(some_rows(), "padded", tmp_path)
    first = load_or_compute(model, data, data.layout, "32-true", 1, lambda *_: None)
    data.splits = {"train": np.array([2]), "val": np.array([0]), "test": np.array([5])}
    other = load_or_compute(model, data, data.layout, "32-true", 1e-9, lambda *_: None)
    assert (first.facts["from_cache"], other.facts["from_cache"]) == (False, True)


def test_what_is_too_large_is_computed_anew_and_said(tmp_path, recwarn):
    model = from_conf("model/tiny", layers=3).load_model(tiny_tokenizer(), 0)
    LastLayers(1, 1)(model, 0)
    data = Data(some_rows(), "padded", tmp_path)
    with pytest.warns(UserWarning, match="would take .* KiB on disk, and tune.cache_gib=1e-09"):
        assert load_or_compute(model, data, data.layout, "32-true", 1e-9, print) is None


def test_a_store_that_gives_other_rewards_is_not_used(tmp_path, monkeypatch):
    model = from_conf("model/tiny", layers=3).load_model(tiny_tokenizer(), 0)
    LastLayers(1, 1)(model, 0)
    add = ActivationWriter.add
    monkeypatch.setattr(ActivationWriter, "add", lambda self, states: add(self, states * 1.01))
    data = Data(some_rows(), "padded", tmp_path)
    with pytest.warns(UserWarning, match="gives rewards that differ by"):
        found = load_or_compute(model, data, data.layout, "32-true", 1, lambda *_: None)
    assert found is None


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["head", "last_layers"])
def test_a_run_with_kept_states_learns_the_same(tmp_path, rmexp, tune):
    words = [
        *(
            "model=tiny",
            "model.layers=3",
            "logger=none",
            SHORT_DEMO,
            "data.limit=40",
            "trainer.validations=1",
            f"tune={tune}",
        ),
        *("trainer.max_epochs=2", "trainer.precision=32-true", f"cache={tmp_path}/cache"),
    ]
    if tune == "last_layers":
        words.append("tune.n=1")
    for more in (["tune.cache_gib=0", "name=plain"], ["name=first"], ["name=second"]):
        rmexp(*words, *more)
    found = {run.name.split("-")[-1]: result(run) for run in rmexp.runs()}
    plain, first, second = (found[name] for name in ("plain", "first", "second"))
    assert "features" not in plain
    assert first["features"]["from_cache"] is False
    assert second["features"]["from_cache"] is True
    for name, value in plain["metrics"].items():
        assert first["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert first["metrics"] == second["metrics"]
