"""What runs of a sweep share of a model is what each would load alone, and stays what it is."""

from dataclasses import dataclass, field

import pytest
import torch
import transformers

from rmexp.core.errors import collect_fallbacks, note_fallback
from rmexp.models.model_cache import ModelCache
from rmexp.models.pretrained import Pretrained
from rmexp.models.tiny import Tiny
from rmexp.models.tuning import Full, Head, LastLayers, LoRA, merge
from tests.helpers.toys import tiny_tokenizer
from tests.models.test_families import (
    EXACT,
    PADDED,
    TOKENIZER,
    comparisons,
    losses_and_gradients,
    small,
)

ALL = LoRA(rank=4, alpha=None, dropout=0.0, target_modules="all-linear")
PARTS = (Head(0), LastLayers(1, 0), ALL)


@dataclass(frozen=True)
class Source:
    """A family's model, that counts how often it is loaded."""

    family: str
    loaded: list = field(repr=False)

    def load_model(self, tokenizer, seed):
        self.loaded.append(seed)
        return small(self.family, **(PADDED | EXACT)[self.family])


def anew(source, tokenizer, seed, tune):
    model = source.load_model(tokenizer, seed)
    tune(model, seed)
    return model


def assert_equal(one, other):
    assert type(one) is type(other)
    states = [dict(model.state_dict()) for model in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    flags = [
        {n: p.requires_grad for n, p in model.named_parameters(remove_duplicate=False)}
        for model in (one, other)
    ]
    assert flags[0] == flags[1]


def step(model):
    """One update of all that trains."""
    weights = [p for p in model.parameters() if p.requires_grad]
    losses_and_gradients(model, comparisons(), "padded")
    torch.optim.SGD(weights, lr=1.0).step()


@pytest.mark.parametrize("tune", PARTS, ids=repr)
def test_the_next_run_has_the_frozen_weights_themselves_and_the_rest_as_if_loaded_anew(tune):
    opened, tokenizer, source = ModelCache(), tiny_tokenizer(), Tiny(layers=3)
    models = []
    for seed in (0, 0, 1, 2):
        model = opened.load(source, tokenizer, seed, tune)
        assert_equal(model, anew(source, tokenizer, seed, tune))
        step(model)  # of which the next one must see nothing
        models.append(model)
    frozen, trains = (
        [{id(p) for p in model.parameters() if p.requires_grad == wanted} for model in models]
        for wanted in (False, True)
    )
    assert frozen[0]
    assert all(one == frozen[0] for one in frozen)
    assert len(set.union(*trains)) == sum(map(len, trains))


@pytest.mark.parametrize("family", [*EXACT, *PADDED])
def test_every_family_can_be_shared(family):
    source, opened = Source(family, []), ModelCache()
    first, second = (opened.load(source, TOKENIZER, 0, LastLayers(1, 0)) for _ in range(2))
    assert source.loaded == [0]
    assert_equal(first, second)
    found = [losses_and_gradients(model, comparisons(), "padded") for model in (first, second)]
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}


@dataclass(frozen=True)
class Watched(Head):
    """Sees on which devices a model is when it is told what trains (`LastLayers` runs it then)."""

    seen: list = field(default_factory=list, repr=False)

    def __call__(self, model, seed):
        super().__call__(model, seed)
        self.seen.append({parameter.device.type for parameter in model.parameters()})


def test_a_run_takes_the_weights_to_its_device_and_the_next_one_starts_there():
    """`meta` stands for a GPU: another device than the one that weights are loaded to."""
    opened, tokenizer, tune = ModelCache(), tiny_tokenizer(), Watched(0)
    first = opened.load(Tiny(), tokenizer, 0, tune)
    for parameter in first.parameters():  # `.to()` would make new parameters for meta, not for GPUs
        if not parameter.requires_grad:
            away = torch.nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
            torch.utils.swap_tensors(parameter, away)
    opened.load(Tiny(), tokenizer, 1, tune)
    assert tune.seen == [{"cpu"}, {"meta"}]


def test_a_run_that_fails_while_its_part_is_chosen_spoils_no_other(monkeypatch):
    """`LastLayers` has all parameters need gradients for a moment: memory may end right then."""
    opened, tokenizer, tune = ModelCache(), tiny_tokenizer(), LastLayers(1, 0)
    first = opened.load(Tiny(layers=3), tokenizer, 0, tune)

    def no_memory(*_, **__):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", no_memory)
        with pytest.raises(torch.OutOfMemoryError):
            opened.load(Tiny(layers=3), tokenizer, 1, tune)
    second = opened.load(Tiny(layers=3), tokenizer, 1, tune)
    assert_equal(second, anew(Tiny(layers=3), tokenizer, 1, tune))
    assert {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}


def test_a_run_by_itself_keeps_nothing():
    opened, source = ModelCache(keeps=False), Source("llama", [])
    for _ in range(2):
        opened.load(source, TOKENIZER, 0, Head(0))
    assert source.loaded == [0, 0]
    assert not opened.shares


def test_nothing_is_shared_where_all_of_it_trains():
    opened, source = ModelCache(), Source("llama", [])
    for _ in range(2):
        step(opened.load(source, TOKENIZER, 0, Full()))
    assert source.loaded == [0, 0]
    assert not opened.shares


def test_another_part_or_model_is_loaded_anew_and_then_shared():
    opened, source = ModelCache(), Source("llama", [])
    for tune in (Head(0), Head(0), ALL, ALL, Head(0)):
        opened.load(source, TOKENIZER, 0, tune)
    assert source.loaded == [0, 0, 0]
    other = Source("gpt2", [])
    assert type(opened.load(other, TOKENIZER, 0, Head(0))).__name__.startswith("GPT2")
    assert other.loaded == [0]


def test_a_source_that_does_not_say_what_it_is_made_of_is_loaded_anew():
    class Own:
        def load_model(self, tokenizer, seed):
            return Tiny().load_model(tokenizer, seed)

    opened = ModelCache()
    opened.load(Own(), tiny_tokenizer(), 0, Head(0))
    assert not opened.shares


def test_what_the_seed_draws_below_the_head_is_drawn_by_each_runs_own(tmp_path):
    """An encoder without its pooler, and embeddings that had to grow."""
    config = transformers.BertConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    Tiny().load_model(tiny_tokenizer(), 0).model.save_pretrained(tmp_path / "llama")
    grown = tiny_tokenizer()
    grown.add_tokens(["<new>"])
    for path, tokenizer in (("bert", TOKENIZER), ("llama", grown)):
        source, opened = Pretrained(str(tmp_path / path)), ModelCache()
        for seed in (0, 1, 1):
            model = opened.load(source, tokenizer, seed, Head(0))
            assert not model.only_head_drawn
            assert_equal(model, anew(source, tokenizer, seed, Head(0)))


def test_a_checkpoint_that_lacks_its_head_alone_is_shared_over_seeds(tmp_path):
    model = Tiny().load_model(tiny_tokenizer(), 0)
    model.model.save_pretrained(tmp_path)
    loaded = Pretrained(str(tmp_path)).load_model(tiny_tokenizer(), 0)
    assert (loaded.fresh_head, loaded.only_head_drawn) == (True, True)


def test_merging_lora_leaves_the_weights_of_others_alone():
    opened, tokenizer = ModelCache(), tiny_tokenizer()
    first, second = (opened.load(Tiny(), tokenizer, 0, ALL) for _ in range(2))
    with torch.no_grad():
        for name, parameter in first.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    before = {name: value.clone() for name, value in second.state_dict().items()}
    merge(first)
    assert all(torch.equal(value, before[name]) for name, value in second.state_dict().items())
    weights = [model.model.layers[0].mlp.up_proj.weight for model in (first, second)]
    assert not torch.equal(*weights)


def test_a_probes_finding_and_what_it_says_reach_every_run():
    opened, tokenizer, asked = ModelCache(), tiny_tokenizer(), []

    def probe():
        asked.append(1)
        note_fallback("padded it is")
        return "padded"

    heard = []
    with collect_fallbacks(heard.append):
        for tune in (Head(0), Head(0), Full()):
            assert opened.once(probe, Tiny(), tokenizer, tune, "cpu") == "padded"
        assert len(asked) == 2
        for _ in range(2):  # of no class of ours: asked each time
            opened.once(probe, object(), tokenizer, Full(), "cpu")
    assert len(asked) == 4
    assert heard == ["padded it is"] * 5


def test_a_model_that_cannot_be_copied_is_loaded_anew():
    class Stubborn(Source):
        def load_model(self, tokenizer, seed):
            model = super().load_model(tokenizer, seed)
            model.holds = (word for word in "ab")  # a generator cannot be copied
            return model

    opened, source = ModelCache(), Stubborn("llama", [])
    models = [opened.load(source, TOKENIZER, 0, Head(0)) for _ in range(2)]
    assert source.loaded == [0, 0]
    assert not opened.shares
    assert_equal(*models)
