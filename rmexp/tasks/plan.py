"""task=plan: what a training run needs, and whether it fits; no weights are loaded."""

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Gt

from rmexp.analysis.report.plan_table import UNKNOWN, plan_table
from rmexp.core.console import Reporter, format_bytes
from rmexp.core.errors import UserError
from rmexp.core.process_memory import device_memory, resident_bytes
from rmexp.data.comparison_data import ComparisonData
from rmexp.losses import Loss
from rmexp.models.heads import HeadSettings
from rmexp.templates.template import Template
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.optim import AdamW
from rmexp.training.planning.estimate import estimate, propose
from rmexp.training.planning.fake_model import FakeModel
from rmexp.training.setup import prepare_data
from rmexp.training.trainer import TrainerSettings

NEEDS = {
    "training": "a training step",
    "keeping": "caching the outputs of the frozen layers",
    "saving": "saving a checkpoint",
    "export": "verifying the export",
    "loading": "loading all weights",
}


def plan(
    model: Any,
    template: Template,
    data: ComparisonData,
    loss: Loss,
    head: HeadSettings,
    tune: Any,
    optim: AdamW,
    trainer: TrainerSettings,
    run: RunDirectory,
    reporter: Reporter,
    seed: int,
    labels: Mapping[str, str],
    memory_gib: Annotated[float, Gt(0)] | None,
    tflops: Annotated[float, Gt(0)] | None,
) -> dict[str, float]:
    """Print parameters, memory by part, tokens, FLOPs and hours; `plan.json` has them too.

    Args:
        model: source of the model; its configuration and tokenizer are read.
        head: its outputs, see `heads`.
        optim: all optimizers have AdamW's two moments.
        memory_gib: memory of each device; None: of this machine's.
        tflops: TFLOP/s that each device reaches; None: no hours are estimated.

    Raises:
        UserError: it does not fit; names settings that do.
    """
    check = functools.partial(head.check_trainable, data, loss, labels["loss"], labels["data"])
    prepared = prepare_data(model, template, data, seed, run, reporter, check)
    gpu = trainer.resolved_accelerator() == "gpu"
    elsewhere = gpu and not torch.cuda.is_available() and trainer.precision == "auto"
    precision = "bf16-mixed" if elsewhere else trainer.resolved_precision()
    bf16 = precision == "bf16-mixed"
    fake = FakeModel(model, prepared.tokenizer, data, head, tune, bf16, gpu)
    process = 0 if gpu else resident_bytes()
    devices = max(1, trainer.processes)  # with `auto`, the machine may have no GPU
    facts = estimate(fake, data.batching.micro_batch_tokens, trainer.strategy, devices, process)
    shared = max(1, trainer.resolved_devices())
    available = device_memory(gpu, shared) if memory_gib is None else memory_gib * 2**30
    epochs = trainer.steps(facts["steps"]) / facts["steps"]
    flops = facts["flops"] * epochs + facts["keeping_flops"]
    facts |= {
        "model": model.name,
        "tune": type(tune).__name__,
        "strategy": trainer.strategy,
        "devices": devices,
        "precision": precision,
        "epochs": epochs,
        "tflops": tflops,
        "hours": None if tflops is None else flops / (tflops * 1e12 * devices * 3600),
        "available": int(available),
        "fits": facts["needed"] <= available,
    }
    run.write_json("plan.json", facts)
    run.update(plan=facts)
    reporter.console.print(plan_table(facts))
    reporter.console.print(UNKNOWN)
    if not facts["fits"]:
        ways = propose(fake, facts, available, data.batching.micro_batch_tokens, process)
        raise UserError(_refusal(facts, list(ways)))
    return {}


def _refusal(facts: Mapping[str, Any], ways: Sequence[str]) -> str:
    what = next(what for name, what in NEEDS.items() if facts[name] == facts["needed"])
    where = f"{facts['strategy']} over {facts['devices']} devices"
    none = "no tune, micro-batch or number of devices that rmexp can propose makes it fit"
    return (
        f"This does not fit: {what} needs {format_bytes(facts['needed'])} on each device "
        f"({where if facts['devices'] > 1 else 'one device'}), and there are "
        f"{format_bytes(facts['available'])}; "
        f"{'it would fit with ' + '; or '.join(ways) if ways else none}."
    )
