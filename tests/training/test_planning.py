"""task=plan: memory, tokens and FLOPs without weights, against hand-computed and measured ones."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.memory import rows
from rmexp.batching.collate import BatchLayout, Collate, unlabelled_row
from rmexp.batching.epoch_layout import lay_out_epoch
from rmexp.batching.rank_partition import RankPartition
from rmexp.models.pretrained import Pretrained
from rmexp.models.reward_model import compute_rewards
from rmexp.models.tuning import Full, LastLayers
from rmexp.training.planning import estimate as estimating
from rmexp.training.planning.fake_model import FakeModel, StepTrace
from tests.conftest import ROOT, result
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer

pytestmark = pytest.mark.slow

LLAMA_8B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
LLAMA_70B = LLAMA_8B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
# By hand. 8B: q and o 4096 x 4096 each, k and v 1024 x 4096 each, three of 4096 x 14336, two norms.
LAYER_8B = 2 * 16_777_216 + 2 * 4_194_304 + 3 * 58_720_256 + 2 * 4096
EMBEDDINGS_8B = 525_336_576  # 128256 x 4096; lm_head is as large
ALL_8B = 8_030_261_248 - 525_336_576 + 4096  # as published, without lm_head, with the reward head
LAYER_70B = 2 * 67_108_864 + 2 * 8_388_608 + 3 * 234_881_024 + 2 * 8192
ALL_70B = 70_553_706_496 - 1_050_673_152 + 8192
GPU = ("trainer.accelerator=gpu", "trainer.precision=bf16-mixed", "task.memory_gib=80")


@pytest.fixture
def directory(tmp_path):
    """Write a model's directory: a configuration and a tokenizer, no weights."""

    def write(settings):
        folder = tmp_path / "model"
        tiny_tokenizer().save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(settings | {"pad_token_id": 0}))
        return str(folder)

    return write


def planned(rmexp, *words, check=True):
    done = rmexp("task=plan", "logger=none", "data.limit=20", *words, check=check)
    (run,) = rmexp.runs()
    facts = json.loads((run / "plan.json").read_text())
    assert result(run)["plan"] == facts
    return done, facts


# ------------------------------------------------------------ figures by hand
def test_8b_over_eight_devices(rmexp, directory, monkeypatch):
    monkeypatch.setattr(Pretrained, "load_model", lambda *_: pytest.fail("it loads weights"))
    assert ALL_8B == EMBEDDINGS_8B + 32 * LAYER_8B + 2 * 4096 == 7_504_928_768
    model = ("model=hf", f"model.path={directory(LLAMA_8B)}", "tune=full", *GPU)
    done, facts = planned(rmexp, *model, "trainer=fsdp", "trainer.devices=8", "task.tflops=400")
    assert (facts["parameters"], facts["trainable"]) == (ALL_8B, ALL_8B)
    assert facts["parts"] == {
        "embeddings": EMBEDDINGS_8B,
        "layers": 32 * LAYER_8B,
        "other": 4096,
        "head": 4096,
    }
    found = facts["memory"]
    assert found["weights"] == 4 * ALL_8B // 8 == 3_752_464_384
    assert found["gradients"] == found["weights"]
    assert found["optimizer"] == 8 * ALL_8B // 8 == 7_504_928_768
    assert found["casts"] == 0
    # Weights and gradients outside of the layers, and of two layers, whole; these weights in bf16.
    outside = EMBEDDINGS_8B + 2 * 4096
    assert found["exchange"] == 2 * 4 * outside + (2 + 4) * 2 * LAYER_8B
    assert facts["loading"] == 4 * ALL_8B
    assert facts["training"] == sum(found.values())
    assert facts["needed"] == max(facts["loading"], facts["training"])
    assert facts["fits"]
    tokens, keys = facts["tokens"], facts["keys"]
    wanted = 6 * 32 * (LAYER_8B - 2 * 4096) * tokens + 12 * 32 * 4096 * keys
    assert facts["flops"] == pytest.approx(wanted, rel=1e-4)  # the head's are in it, too
    assert facts["hours"] == pytest.approx(facts["flops"] / (400e12 * 8 * 3600))
    assert "7,504,928,768" in done.stdout
    assert "only a run can tell" in done.stdout


def test_70b_is_refused_with_what_it_needs(rmexp, directory):
    assert ALL_70B == 1_050_673_152 + 80 * LAYER_70B + 2 * 8192 == 69_503_041_536
    model = ("model=hf", f"model.path={directory(LLAMA_70B)}", "tune=full", *GPU)
    more = ("trainer=fsdp", "trainer.devices=8", "trainer.num_nodes=8")
    done, facts = planned(rmexp, *model, *more, check=False)
    assert done.returncode == 1
    assert not facts["fits"]
    assert facts["memory"]["optimizer"] == 8 * ALL_70B // 64
    assert (
        "loading all weights needs 258.9 GiB on each device (fsdp over 64 devices), and there are "
        "80.0 GiB; no tune, micro-batch or number of devices" in done.stderr
    )


@pytest.mark.soak
def test_a_refusal_names_settings_that_fit(rmexp, directory):
    model = ("model=hf", f"model.path={directory(LLAMA_8B)}", "tune=full", *GPU)
    done, facts = planned(rmexp, *model, check=False)
    assert done.returncode == 1
    assert facts["memory"]["weights"] == 4 * ALL_8B
    assert facts["memory"]["optimizer"] == 8 * ALL_8B
    assert "a training step needs" in done.stderr
    assert "tune=lora (" in done.stderr
    assert "trainer=fsdp on " in done.stderr


@pytest.mark.parametrize("bf16", [False, True])
def test_one_device_needs_no_exchange_and_ddp_has_each_gradient_twice(bf16, monkeypatch):
    epoch = {"micro_batches": 2, "tokens": 9, "keys": 9}
    monkeypatch.setattr(estimating, "lay_out_epoch", lambda *_: (trees(), epoch))
    data = SimpleNamespace(
        rows=None,
        collate=lambda layout: Collate(0, 99, layout),
        plan=lambda: SimpleNamespace(steps=lambda _: []),
        partition=lambda *_: None,
    )
    model = fake(LastLayers(1, 0), bf16=bf16, data=data)
    linear = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    layer = linear + 2 * 32
    outside = VOCABULARY * 32 + 32 + 32  # embeddings, norm, head
    whole, trained = outside + 2 * layer, layer + 32 + 32

    def memory(strategy, devices):
        return estimating.estimate(model, 99, strategy, devices, process=5)["memory"]

    single, ddp, fsdp = memory("single", 1), memory("ddp", 2), memory("fsdp", 4)
    held = 4 * whole - 2 * linear * bf16  # the frozen layer's matrices are held in bf16
    assert (single["weights"], single["optimizer"]) == (held, 8 * trained)
    assert (single["gradients"], single["exchange"], single["process"]) == (4 * trained, 0, 5)
    assert (single["casts"] > 0) == bf16
    assert ddp == single | {"exchange": 4 * trained}
    assert (fsdp["weights"], fsdp["optimizer"]) == (held // 4, 2 * trained)
    assert (fsdp["gradients"], fsdp["casts"]) == (trained, 0)
    size = 2 if bf16 else 4  # layers are gathered in the precision that they compute in
    assert fsdp["exchange"] == 4 * (outside + 64) + 2 * (size + 4) * layer


# -------------------------------------------------------------------- the work
def test_the_demo_epoch_is_counted_token_by_token(rmexp):
    _, facts = planned(rmexp, "model=tiny", "trainer.precision=32-true", "trainer.max_epochs=2")
    assert facts["steps"] == facts["laid_out"] == -(-facts["comparisons"] // 4)
    assert facts["epochs"] == 2
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    wanted = 6 * 2 * layer * facts["tokens"] + 12 * 2 * 32 * facts["keys"]
    assert facts["flops"] == pytest.approx(wanted, rel=1e-3)  # the head's are in it, too
    assert facts["fits"]


def test_tokens_of_a_tree_and_of_padded_rows():
    rows = [unlabelled_row([[1, 2, 3, 4], [1, 2, 5]])]
    partition = RankPartition(0, 1, np.array([5]), np.array([2]), np.array([0]))
    (_, tree), (widest, padded) = (
        lay_out_epoch([[0]], partition, Rows(rows), Collate(0, 99, BatchLayout(layout)))
        for layout in ("tree", "padded")
    )
    # Trunk 1 2, branches 3 4 and 5: keys 1 + 2, 3 + 4, 3.
    assert (tree["tokens"], tree["keys"]) == (5, 13)
    assert (padded["tokens"], padded["keys"]) == (7, 10 + 6)
    assert widest.tokens_R_T.shape == (2, 8)


class Rows(list):
    column_names = ()


def test_flops_are_those_that_torch_counts():
    model = from_conf("model/tiny", hidden=64, layers=3).load_model(tiny_tokenizer(), 0)
    LastLayers(2, 0)(model, 0)
    batch = Collate(0, 99, BatchLayout("padded"))([unlabelled_row([list(range(9, 41))])]).batches[0]
    with FlopCounterMode(display=False) as counter:
        compute_rewards(model, batch).sum().backward()
    counted = counter.get_flop_counts()["Global"]
    products = sum(v for op, v in counted.items() if str(op) in ("aten.mm", "aten.addmm"))
    found = fake(LastLayers(2, 0), hidden=64, layers=3).trace(batch).flops()
    assert found == products
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128
    # The gradient of the lowest trained layer's input is spared: that of q, k and v.
    assert found == pytest.approx((2 + 6 + 6) * layer * 32, rel=0.03)


# ------------------------------------------------------------------ the memory
def test_bytes_alive_and_flops_are_recorded():
    layer = nn.Linear(8, 4, bias=False)
    layer.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=9))
    layer.base_model_prefix, layer.base = "base", nn.Module()
    with StepTrace(layer, []) as trace:
        x = torch.ones(16, 8)
        y = layer(x)
        total = y.sum()
        trace.backward(total)
    forward = 4 * (16 * 8 + 16 * 4 + 1)
    phase, peak = trace.peak()
    assert phase == "backward"
    assert sum(peak) > forward
    _, accumulated = trace.peak(accumulated=4 * 8 * 4)
    assert accumulated[2] == 4 * 8 * 4
    assert layer.weight.grad is None
    assert trace.flops() == 2 * (2 * 16 * 8 * 4)


VOCABULARY = len(tiny_tokenizer())


def fake(tune, bf16=False, gpu=False, data=None, **model):
    return FakeModel(
        from_conf("model/tiny", **model),
        tiny_tokenizer(),
        data,
        from_conf("head/linear"),
        tune,
        bf16,
        gpu,
    )


def trees(count=1, shared=40, own=30):
    rows = [
        unlabelled_row([[n, *range(9, 9 + shared), *[k] * own] for k in (1, 2)], str(n))
        for n in range(count)
    ]
    return Collate(0, 10**6, BatchLayout("tree"))(rows).batches[0]


@pytest.mark.parametrize(
    ("tune", "bf16", "recompute"),
    [
        (Full(), False, False),
        (Full(), True, True),
        (LastLayers(3, 0), False, False),
        (LastLayers(3, 0), True, False),
    ],
)
def test_two_layers_of_a_kind_stand_for_all(tune, bf16, recompute, monkeypatch):
    model = fake(tune, bf16, layers=5, gradient_checkpointing=recompute)
    few = model.trace(trees())
    monkeypatch.setattr(model, "_shorten", whole(model))
    every = model.trace(trees())
    for setting in ((1.0, 0), (0.125, 0), (1.0, 10**6)):
        assert few.peak(*setting) == every.peak(*setting)
    assert few.flops() == every.flops()


def whole(model):
    """All layers run, each for itself."""

    def keep(span):
        model.holder._modules = {str(n): layer for n, layer in enumerate(model.layers)}
        model.model.config.num_hidden_layers = len(model.layers)
        return [1] * len(model.layers)

    return keep


def test_a_checkpointed_layer_keeps_its_input_alone():
    batch = trees()
    few, many = (
        fake(Full(), hidden=64, layers=n, gradient_checkpointing=True).trace(batch) for n in (4, 9)
    )
    activations = [trace.peak(accumulated=1)[1][0] for trace in (few, many)]
    assert activations[1] - activations[0] == 5 * batch.tokens_R_T.numel() * 64 * 4


def test_sharded_gradients_leave_the_peak_to_the_activations():
    trace = fake(Full(), hidden=64, layers=4).trace(trees(1, 8, 8))
    (_, whole), (_, eighth) = trace.peak(), trace.peak(share=1 / 8)
    assert whole[0] < eighth[0]
    assert whole[2] / 8 >= eighth[2]
    assert sum(eighth) < sum(whole)


def test_fused_attention_keeps_no_scores():
    long = trees(1, shared=300, own=200)
    blocks, gpu = (
        fake(Full(), bf16=True, gpu=g, hidden=64).trace(long).peak()[1][0] for g in (False, True)
    )
    assert gpu < blocks


def test_cached_layers_run_in_the_feature_pass_and_not_in_a_step():
    model = fake(LastLayers(1, 0), layers=5)
    whole = model.trace(trees())
    model.cached = 4
    step, features = model.trace(trees()), model.trace(trees(), feature_pass=True)
    forward = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) * trees().tokens_R_T.numel()
    head = 2 * 2 * 32  # of two responses
    assert features.flops() - head == 4 * forward == whole.flops() - step.flops()
    assert sum(features.peak()[1]) < sum(step.peak()[1])


MEASURE = """
import ctypes, re, sys
from pathlib import Path
import torch
from rmexp.core.process_memory import resident_bytes
from rmexp.models.reward_model import compute_rewards
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer
from tests.training.test_planning import Full, fake, trees

def highest():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status)[1])

# From 64 KiB on, each block has pages of its own, so that the allocator holds nothing back.
ctypes.CDLL(None).mallopt(-3, 65536)
bf16, size, batch = sys.argv[1] == "bf16", {"hidden": 256, "layers": 4}, trees(2, 40, 30)
model = fake(Full(), bf16, **size)
peak = model.trace(batch).peak(accumulated=4 * sum(p.numel() for p in model.parameters.values()))

def train(size, batch):
    model = from_conf("model/tiny", **size).load_model(tiny_tokenizer(), 0).train()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for _ in range(2):
                compute_rewards(model, batch).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    return 4 * sum(p.numel() for p in model.parameters())

train({"hidden": 32, "layers": 1}, trees(1, 4, 3))  # loads code, whose pages are not the model's
before = resident_bytes()
Path("/proc/self/clear_refs").write_text("5")  # from here on is the highest
weights = train(size, batch)
print(3 * weights + sum(peak[1]), highest() - before)
raise SystemExit
"""


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.soak)])
def test_a_real_step_takes_what_was_planned(precision, tmp_path, fork_server):
    code = fork_server.run(tmp_path, [precision], first=MEASURE)
    assert code == 0, (tmp_path / "err.txt").read_text()
    planned, measured = map(int, (tmp_path / "out.txt").read_text().split())
    assert planned == pytest.approx(measured, rel=0.15)


def test_recorded_runs_took_what_was_planned():
    lines = [json.loads(one) for one in (ROOT / "bench/memory.jsonl").read_text().splitlines()]
    ordered = [one for one in lines if one["tune"] in ("full", "last_layers")]
    assert len(ordered) >= 4
    for one in ordered:
        assert one["planned"] == pytest.approx(one["measured"], rel=0.2), one
    guide = (ROOT / "docs/planning.md").read_text()
    assert all("| " + " | ".join(row) + " |" in guide for row in rows())
