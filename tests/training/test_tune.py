"""Trainable parts: what trains, trees stay exact, checkpoints, resume, the merged export."""

import json
import shutil

import pytest
import torch
import transformers

from rmexp.core.errors import UserError
from rmexp.models.layout_probe import check_layout, probe_layout
from rmexp.models.reward_model import backbone, head_parameters
from rmexp.models.tiny import Tiny
from rmexp.models.trained_state import load_trained_state, merge, trained_state
from rmexp.models.tuning import (
    Full,
    Head,
    LastLayers,
    LoRA,
    frozen_layers,
    layers,
)
from rmexp.training.trainer import required_disk_bytes
from tests.conftest import SHORT_DEMO, result
from tests.helpers.interruptions import interrupted_after
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer
from tests.models.test_families import (
    EXACT,
    PADDED,
    assert_same,
    comparisons,
    losses_and_gradients,
    small,
)

ALL = LoRA(rank=4, alpha=None, dropout=0.0, target_modules="all-linear", load_in_4bit=False)
ATTENTION = LoRA(
    rank=4, alpha=8, dropout=0.0, target_modules=["q_proj", "self_attn.v_proj"], load_in_4bit=False
)
TUNES = (Full(), Head(0), LastLayers(1, 0), ALL)


def tuned(tune, family="llama", seed=0, **options):
    model = small(family, **(PADDED | EXACT)[family] | options)
    tune(model, seed)
    return model


def stirred(model):
    """B starts at zero, where A has no gradient and the update no effect."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model.eval()


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def rewards_of(model):
    return losses_and_gradients(model, comparisons(), "tree")[0]


# ------------------------------------------------------------------ what trains
def test_the_head_alone():
    assert trained_names(tuned(Head(0))) == {"score.weight"}


def test_an_encoders_pooler_is_a_part_of_its_head():
    wanted = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert trained_names(tuned(Head(0), "bert")) == wanted | {
        "classifier.weight",
        "classifier.bias",
    }
    model = tuned(ALL, "bert")
    assert wanted <= trained_names(model)
    assert not any("pooler" in name and "lora" in name for name, _ in model.named_modules())


@pytest.mark.parametrize(
    ("family", "norm"),
    [
        ("llama", {"model.norm.weight"}),
        ("gpt2", {"transformer.ln_f.weight", "transformer.ln_f.bias"}),
        ("opt", {f"model.decoder.final_layer_norm.{end}" for end in ("weight", "bias")}),
    ],
)
def test_the_last_layers_and_what_is_above_them(family, norm):
    model = tuned(LastLayers(1, 0), family)
    last = {id(p) for p in layers(model)[1].parameters()}
    inside = {name for name, p in model.named_parameters() if id(p) in last}
    assert trained_names(model) == inside | norm | {"score.weight"}


def test_all_layers_leave_the_embeddings_out():
    model = tuned(LastLayers(2, 0))
    frozen = {name for name, _ in model.named_parameters()} - trained_names(model)
    assert frozen == {"model.embed_tokens.weight"}


def test_lora_trains_its_matrices_and_the_head():
    model = tuned(ATTENTION)
    names = trained_names(model)
    assert "score.weight" in names
    assert {name.split(".")[4] for name in names if "lora" in name} == {"q_proj", "v_proj"}
    assert len(names) == 1 + 2 * 2 * 2
    assert type(model) is transformers.LlamaForSequenceClassification


def test_lora_takes_pefts_choice_for_the_family():
    names = trained_names(tuned(LoRA(4, None, 0.0, None, False)))
    assert {name.split(".")[4] for name in names if "lora" in name} == {"q_proj", "v_proj"}


def test_lora_is_drawn_by_the_seed_and_nobody_elses_numbers_change():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = small("llama")
    torch.set_rng_state(before)
    ALL(model, 0)
    assert torch.equal(torch.get_rng_state(), before)
    models = [tuned(ALL, seed=number) for number in (0, 0, 1)]
    one, same, other = (trained_state(model, model.state_dict()) for model in models)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "modernbert-decoder", "opt"])
def test_frozen_layers_are_counted_from_below(family):
    found = [frozen_layers(tuned(tune, family)) for tune in TUNES]
    assert found == [0, 2, 1, 0]
    assert len(layers(small(family, **(PADDED | EXACT)[family]))) == 2


def test_embeddings_that_train_freeze_nothing():
    model = tuned(LastLayers(1, 0))
    model.get_input_embeddings().requires_grad_(True)
    assert frozen_layers(model) == 0


# ------------------------------------------------------------------- exactness
@pytest.mark.parametrize(
    ("family", "tune"),
    [
        *((family, ALL) for family in EXACT),
        *((family, part) for family in ("llama", "gpt2", "gemma3_text") for part in TUNES[1:3]),
    ],
)
def test_trees_are_exact(family, tune):
    model = stirred(tuned(tune, family))
    assert check_layout(model) is None
    assert probe_layout(model) is None
    assert assert_same(model, comparisons()) > 1e-3
    names = {name for name, p in model.named_parameters() if p.grad is not None}
    assert names == trained_names(model)


@pytest.mark.parametrize(
    "tune", [ALL, LastLayers(1, 0), Head(0)], ids=["lora", "last_layers", "head"]
)
def test_checkpointed_layers_give_the_same_gradients(tune):
    model = stirred(tuned(tune))
    rewards, gradients = losses_and_gradients(model, comparisons(), "tree")
    model.train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    again, checkpointed = losses_and_gradients(model, comparisons(), "tree")
    assert again == rewards
    assert torch.equal(gradients, checkpointed)
    assert_same(model, comparisons())


def test_dropout_of_lora_rules_trees_out():
    model = tuned(LoRA(4, None, 0.1, "all-linear", False))
    assert check_layout(model) == "LoRA has dropout (tune.dropout=0.1)"


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "mixtral", "bert"])
def test_merged_the_rewards_stay(family, tmp_path):
    layout = "padded" if family in PADDED else "tree"
    model = stirred(tuned(ALL, family))
    plain = small(family, **(PADDED | EXACT)[family])
    kept = set(plain.state_dict())
    before = losses_and_gradients(model, comparisons(), layout)[0]
    start = losses_and_gradients(plain.eval(), comparisons(), layout)[0]
    assert any(a != pytest.approx(before[row], abs=1e-4) for row, a in start.items())
    merge(model)
    assert set(model.state_dict()) == kept
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert all(torch.equal(loaded.state_dict()[n], v) for n, v in model.state_dict().items())
    after = losses_and_gradients(model, comparisons(), layout)[0]
    assert all(after[row] == pytest.approx(value, abs=1e-5) for row, value in before.items())


# ------------------------------------------------- optimizer, state, disk space
@pytest.mark.parametrize("tune", TUNES, ids=["full", "head", "last_layers", "lora"])
def test_the_optimizer_holds_what_trains(tune):
    model = stirred(tuned(tune))
    adamw = from_conf("optim/adamw", lr=1e-3, head_lr=1e-2, weight_decay=0.1)
    optimizer, _ = adamw.build(model, from_conf("loss/contrastive", margin=1.0), 10)
    losses_and_gradients(model, comparisons(), "tree")
    optimizer.step()
    trains = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in optimizer.state} == {id(p) for p in trains}
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    head = {id(p) for p in head_parameters(model)}
    for parameter in trains:
        group = groups[id(parameter)]
        assert group["initial_lr"] == (1e-2 if id(parameter) in head else 1e-3)
        assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_the_bias_of_a_head_is_not_decayed():
    model = tuned(from_conf("tune/head"))
    model.score.bias = torch.nn.Parameter(torch.ones(1))
    adamw = from_conf("optim/adamw", weight_decay=0.1, head_weight_decay=0.2)
    optimizer, _ = adamw.build(model, from_conf("loss/contrastive", margin=1.0), 10)
    decays = {
        p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decays == {2: 0.2, 1: 0.0}


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 1), (0.0, 30), (0.1, 30), (1.0, 10)])
def test_the_schedules_are_those_of_transformers(schedule, warmup, steps):
    adamw = from_conf("optim/adamw", schedule=schedule, warmup=warmup)
    loss = from_conf("loss/contrastive", margin=1.0)
    optimizer, ours = adamw.build(tuned(from_conf("tune/head")), loss, steps)
    theirs = transformers.get_scheduler(
        "constant_with_warmup" if schedule == "constant" else schedule,
        optimizer,
        round(warmup * steps),
        steps,
    )
    rates = [[one.lr_lambdas[0](done) for done in range(steps + 1)] for one in (ours, theirs)]
    assert rates[0] == rates[1]


@pytest.mark.parametrize("tune", TUNES[1:], ids=["head", "last_layers", "lora"])
def test_the_state_is_what_trains_and_comes_back(tune):
    model = stirred(tuned(tune))
    state = trained_state(model, model.state_dict())
    assert set(state) == trained_names(model)
    other = tuned(tune, seed=5)
    load_trained_state(other, state)
    assert rewards_of(other.eval()) == rewards_of(model)
    name = next(iter(state))
    with pytest.raises(RuntimeError, match=rf"missing \['{name}'\]"):
        load_trained_state(other, {k: v for k, v in state.items() if k != name})
    with pytest.raises(RuntimeError, match=r"not known \['x'\]"):
        load_trained_state(other, state | {"x": torch.zeros(1)})


def test_the_disk_needed_counts_what_trains():
    assert required_disk_bytes(100, 100) == 4 * 800
    assert required_disk_bytes(100, 10) == 4 * (2 * 30 + 10 + 100)


# ------------------------------------------------------------- refused in words
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("tune=last_layers",), "tune.n=4: LlamaForSequenceClassification has 2 layers."),
        (("tune=last_layers", "tune.n=0"), "tune.n=0: should be a whole number above 0."),
        (
            ("tune=lora", "tune.target_modules=[q_prj]"),
            "LlamaForSequenceClassification has no linear layer q_prj (did you mean q_proj?); it "
            "has down_proj, gate_proj,",
        ),
        (
            ("tune=lora", "tune.target_modules=linear"),
            "tune.target_modules=linear: should be all-linear, or a list, or null.",
        ),
        (("tune=lora", "tune.rank=0"), "tune.rank=0: should be a whole number above 0."),
        (("tune=lor",), "There is no tune=lor (did you mean lora?)"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_loads(words, sentence, rmexp, monkeypatch):
    monkeypatch.setattr(Tiny, "load_model", lambda *_: pytest.fail("it loads a model"))
    done = rmexp("model=tiny", "logger=none", *words, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert rmexp.runs() == []


def test_models_that_lora_cannot_adapt():
    model = small("gpt2", **EXACT["gpt2"])
    backbone(model).h = torch.nn.ModuleList()
    with pytest.raises(UserError, match="has no linear layers below its head"):
        ALL(model, 0)
    with pytest.raises(UserError, match="reads the weights of out_proj past LoRA"):
        ALL(small("mamba", **PADDED["mamba"]), 0)
    unknown = small("llama")
    unknown.config.model_type = "mine"
    with pytest.raises(UserError, match="peft has no choice of layers for Llama"):
        LoRA(4, None, 0.0, None, False)(unknown, 0)


# ------------------------------------------------------------------- whole runs
RUN = (
    "model=tiny",
    "logger=none",
    SHORT_DEMO,
    "data.limit=40",
    "data.batch_size=6",
    "trainer.checkpoint_every=1",
    "trainer.keep=resume",
    "optim.lr=1e-3",
)
PARTS = {
    "lora": ("tune=lora", "tune.rank=4", "tune.dropout=0.1", "trainer.precision=32"),
    # Frozen weights are held in bf16 and exported as they are in the base.
    "last_layers": ("tune=last_layers", "tune.n=1", "trainer.precision=bf16"),
    "head": ("tune=head", "trainer.precision=32-true"),
}


def checkpoint(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """Uninterrupted runs, made when they are first asked for."""
    from tests.conftest import CommandLine

    made = {}

    def run(part):
        if part not in made:
            rmexp = CommandLine(tmp_path_factory.mktemp(part), cache)
            made[part] = rmexp(*RUN, *PARTS[part]), rmexp.runs()[0]
        return made[part]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_run_says_stores_and_exports_what_it_trained(part, whole):
    done, run = whole(part)
    model = from_conf("model/tiny").load_model(tiny_tokenizer(), 0)
    every = sum(p.numel() for p in model.parameters())
    tune, words = {
        "lora": (LoRA(4, None, 0.1, "all-linear", False), "low-rank updates and the head"),
        "last_layers": (
            LastLayers(1, 0),
            "the last 1 of 2 layers, final norm and head; tune=full: all",
        ),
        "head": (Head(0), "the head"),
    }[part]
    tune(model, 0)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found = result(run)
    assert (found["parameters"], found["trainable"]) == (every, count)
    assert f"tiny, {every:,} parameters, {count:,} train ({words}), layout" in done.stdout
    assert found["layout"] == ("padded" if part == "lora" else "mixed")
    for name in ("last", "best"):
        stored = {k.removeprefix("model.") for k in checkpoint(run, name)["state_dict"]}
        assert stored == trained_names(model)
    exported = transformers.AutoModelForSequenceClassification.from_pretrained(run / "export")
    start = from_conf("model/tiny").load_model(tiny_tokenizer(), 0).state_dict()
    assert exported.state_dict().keys() == start.keys()
    changed = {k for k, v in exported.state_dict().items() if not torch.equal(v, start[k])}
    if part == "lora":
        assert all(k.endswith("proj.weight") or k == "score.weight" for k in changed)
        assert len(changed) == 1 + 7 * 2
    else:
        assert changed == trained_names(model)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_an_interrupted_run_goes_on_bit_for_bit(part, whole, rmexp, monkeypatch):
    with interrupted_after(2, monkeypatch):
        assert rmexp(*RUN, *PARTS[part], check=False).returncode == 130
    (run,) = rmexp.runs()
    assert not (run / "export").exists()
    rmexp(f"resume={run}")
    _, uninterrupted = whole(part)
    assert (run / "metrics.jsonl").read_text() == (uninterrupted / "metrics.jsonl").read_text()
    one, two = checkpoint(run)["state_dict"], checkpoint(uninterrupted)["state_dict"]
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert result(run)["metrics"] == result(uninterrupted)["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_run_without_an_export_scores_from_its_checkpoint(part, whole, rmexp):
    shutil.copytree(whole(part)[1], rmexp.folder / "run")
    rows = rmexp.folder / "rows.jsonl"
    rows.write_text('{"prompt": "Hi", "response": "Hello"}\n')
    score = ("task=score", "checkpoint=run", "data.path=rows.jsonl", "trainer.precision=32-true")
    rmexp(*score, "out=exported.jsonl")
    shutil.rmtree(rmexp.folder / "run" / "export")
    rmexp(*score, "out=stored.jsonl")
    one, two = (
        json.loads((rmexp.folder / name).read_text())["reward"]
        for name in ("exported.jsonl", "stored.jsonl")
    )
    assert one == pytest.approx(two, abs=1e-5)
