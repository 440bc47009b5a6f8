"""task=plan: memory, tokens and FLOPs without weights, against hand-computed and measured ones."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from rmexp.batching.collate import BatchLayout, Collate, unlabelled_row
from rmexp.models.pretrained import Pretrained
from rmexp.models.reward_model import compute_rewards, fit_tokenizer, record_facts
from rmexp.models.tuning import Full, LastLayers
from rmexp.training.planning import memory
from rmexp.training.planning.live import MAPPED, Live
from rmexp.training.planning.memory import Peak, Shape, step_peak, without_content
from rmexp.training.planning.needs import Devices, Sizes, _parts
from rmexp.training.planning.work import Work, flops, work_of
from tests.conftest import ROOT, result
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer

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
    assert facts["needed"] == facts["loading"] > facts["training"]
    assert facts["fits"]
    tokens, keys = facts["tokens"], facts["keys"]
    wanted = 6 * 32 * (LAYER_8B - 2 * 4096) * tokens + 12 * 32 * 4096 * keys
    assert facts["flops"] == wanted
    assert facts["hours"] == pytest.approx(wanted / (400e12 * 8 * 3600))
    assert "7,504,928,768" in done.stdout


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


def test_what_would_make_it_fit_is_said(rmexp, directory):
    model = ("model=hf", f"model.path={directory(LLAMA_8B)}", "tune=full", *GPU)
    done, facts = planned(rmexp, *model, check=False)
    assert done.returncode == 1
    assert facts["memory"]["weights"] == 4 * ALL_8B
    assert facts["memory"]["optimizer"] == 8 * ALL_8B
    assert "a training step needs" in done.stderr
    assert "tune=lora (" in done.stderr
    assert "trainer=fsdp on " in done.stderr


def test_one_device_needs_no_exchange_and_ddp_has_each_gradient_twice():
    sizes = Sizes({"layers": 100, "head": 4}, 50, 4, 4, 20, 10)
    step = Peak("backward", activations=7, casts=3, gradients=200)
    assert _parts(sizes, step, Devices("single", 1)) == {
        "weights": 416,
        "gradients": 200,
        "optimizer": 400,
        "activations": 7,
        "casts": 3,
    }
    assert _parts(sizes, step, Devices("ddp", 2))["exchange"] == 200
    parted = _parts(sizes, step, Devices("fsdp", 4))
    assert [parted[k] for k in ("weights", "optimizer", "gradients", "casts")] == [104, 100, 50, 0]
    assert parted["exchange"] == 4 * 4 + 2 * 2 * 20 + 4 * (4 + 2 * 10)  # layers' weights in bf16
    step = Peak("backward", activations=7, gradients=200)
    assert _parts(sizes, step, Devices("fsdp", 4))["exchange"] == 4 * (4 + 2 * 20 + 4 + 2 * 10)


# -------------------------------------------------------------------- the work
def test_the_demo_epoch_is_counted_token_by_token(rmexp):
    _, facts = planned(rmexp, "model=tiny", "trainer.precision=32-true", "trainer.max_epochs=2")
    assert facts["steps"] == facts["laid_out"] == -(-facts["comparisons"] // 8)
    assert facts["epochs"] == 2
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    assert facts["flops"] == 6 * 2 * layer * facts["tokens"] + 12 * 2 * 32 * facts["keys"]
    assert facts["fits"]


def test_tokens_of_a_tree_and_of_padded_rows():
    rows = [unlabelled_row([[1, 2, 3, 4], [1, 2, 5]])]
    tree, padded = (
        Collate(0, 99, BatchLayout(layout))(rows).batches[0] for layout in ("tree", "padded")
    )
    # Trunk 1 2, branches 3 4 and 5: keys 1 + 2, 3 + 4, 3.
    assert work_of(tree) == Work(5, 13)
    assert work_of(padded) == Work(7, 10 + 6)


def test_flops_are_those_that_torch_counts():
    model = from_conf("model/tiny", hidden=64, layers=3).load_model(tiny_tokenizer(), 0)
    LastLayers(2, 0)(model, 0)
    batch = Collate(0, 99, BatchLayout("padded"))([unlabelled_row([list(range(9, 41))])]).batches[0]
    with FlopCounterMode(display=False) as counter:
        compute_rewards(model, batch).sum().backward()
    counted = counter.get_flop_counts()["Global"]
    products = sum(v for op, v in counted.items() if str(op) in ("aten.mm", "aten.addmm"))
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128
    ours = flops(model, Work(32, 0))
    assert ours == (2 + 6 + 6) * layer * 32
    # Torch spares the gradient of the lowest trained layer's input: that of q, k and v.
    assert products == pytest.approx(ours, rel=0.03)
    assert flops(model, Work(0, 10)) == 4 * 64 * 10 * (1 + 3 + 3)
    assert flops(model, Work(32, 0), kept=1) == 12 * layer * 32


# ------------------------------------------------------------------ the memory
def test_what_is_alive_is_counted():
    weight = torch.ones(8, 4, requires_grad=True)
    with Live([weight]) as live:
        live.mark("all")
        weight.register_post_accumulate_grad_hook(live.is_gradient)
        x = torch.ones(16, 8)
        y = x @ weight
        live.mark("backward")
        y.sum().backward()
        del x, y
    (first, second) = live.finish()
    assert first.end.tolist() == [4 * (16 * 8 + 16 * 4), 0, 0, 0]
    assert second.end.tolist() == [0, 0, 4 * 8 * 4, 0]
    assert second.peak.sum() > first.end.sum()


def test_the_heap_loses_a_share_of_the_blocks_that_are_not_mapped():
    with FakeTensorMode(), Live([], 0.5) as live:
        live.mark("all")
        small, large = torch.empty(100), torch.empty(MAPPED // 4)
        live.mark("freed")
        del small
    first, second = live.finish()
    assert first.end.tolist() == [400 + MAPPED, 0, 0, 200]
    assert second.end.tolist() == [large.nbytes, 0, 0, 0]


def shape(tune, precision, source, again=False, gpu=False):
    model = source.skeleton()
    fit_tokenizer(model, tiny_tokenizer(), 0)
    record_facts(model, True, False, attends_to_future=False)
    mode = without_content(model)
    with mode:
        tune(model, 0)
    if again:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return Shape(mode, model, 0, False, precision, gpu)


def trees(count=3, shared=40, own=30):
    rows = [
        unlabelled_row([[n, *range(9, 9 + shared), *[k] * own] for k in (1, 2)], str(n))
        for n in range(count)
    ]
    return Collate(0, 10**6, BatchLayout("tree"))(rows).batches[0]


@pytest.mark.parametrize(
    ("tune", "precision", "several"),
    [(Full(), "32-true", False), (Full(), "bf16-mixed", True), (LastLayers(3, 0), "32-true", True)],
)
def test_two_layers_of_a_kind_stand_for_all(tune, precision, several, monkeypatch):
    few = step_peak(shape(tune, precision, from_conf("model/tiny", layers=5)), trees(), several)
    monkeypatch.setattr(
        memory, "_representatives", lambda every, types: dict.fromkeys(range(len(every)), 1)
    )
    assert few == step_peak(
        shape(tune, precision, from_conf("model/tiny", layers=5)), trees(), several
    )


def test_a_checkpointed_layer_keeps_its_input_alone():
    batch = trees()
    found = [
        step_peak(
            shape(Full(), "32-true", from_conf("model/tiny", hidden=64, layers=n), True),
            batch,
            True,
        )
        for n in (10, 30)
    ]
    kept = batch.tokens_R_T.numel() * 64 * 4
    assert found[1].activations - found[0].activations == 20 * kept


def test_parted_gradients_leave_the_peak_to_the_activations():
    parts = (
        shape(Full(), "32-true", from_conf("model/tiny", hidden=64, layers=4)),
        trees(1, 8, 8),
        False,
    )
    whole, eighth = step_peak(*parts), step_peak(*parts, share=1 / 8)
    assert whole.activations < eighth.activations
    assert whole.gradients / 8 >= eighth.gradients
    assert eighth.total < whole.total


def test_fused_attention_keeps_no_scores():
    one = from_conf("model/tiny", hidden=64, layers=2)
    cpu, gpu = (step_peak(shape(Full(), "32-true", one, gpu=g), trees(), False) for g in (0, 1))
    assert gpu.activations < cpu.activations


MEASURE = """
import os, sys, threading
import torch
from rmexp.loading import Tiny
from rmexp.losses import Contrastive
from rmexp.model import rewards
from rmexp.optim import AdamW
from rmexp.sizing.room import resident
from tests.analysis.test_plan_task import shape, step_peak, trees, Full
from tests.helpers.toys import tiny_tokenizer

source, batch, gaps = Tiny(hidden=512, layers=6), trees(4, 40, 30), int(sys.argv[1])
precision = "bf16-mixed"
planned = step_peak(shape(Full(), precision, source), batch, True)
before = resident()
model = source.load_model(tiny_tokenizer(), 0).train()
optimizer, _ = AdamW(lr=1e-4).build(model, Contrastive(), 3)
peak, over = [0], threading.Event()

def watch():
    while not over.wait(0.002):
        peak[0] = max(peak[0], resident())

threading.Thread(target=watch).start()
for _ in range(2):
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        for _ in range(2):
            rewards(model, batch).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
over.set()
weights = 4 * sum(p.numel() for p in model.parameters())
print(3 * weights + planned.total - gaps * planned.heap, peak[0] - before)
"""


@pytest.mark.parametrize("gaps", [True, False])
def test_a_real_step_takes_what_was_planned(gaps):
    mapped = {} if gaps else {"MALLOC_MMAP_THRESHOLD_": "65536"}  # each block has its own pages
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(int(not gaps))],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | mapped,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    planned, measured = map(int, done.stdout.split())
    assert planned == pytest.approx(measured, rel=0.15)
