"""task=plan: what a training will need, and whether it fits; no weights are loaded."""

import functools
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Gt

from rmexp.analysis.report import plan_table
from rmexp.core.console import Reporter
from rmexp.core.errors import UserError
from rmexp.data.comparison_data import ComparisonData
from rmexp.losses import Loss
from rmexp.losses.compatibility import check_trainable
from rmexp.templates.template import Template
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.optim import AdamW
from rmexp.training.planning.needs import Devices, Needs, Sizer, sized
from rmexp.training.planning.room import GIBIBYTE, MachineSetting, device_memory, refusal, resident
from rmexp.training.planning.work import Epoch, lay_out
from rmexp.training.setup import prepare_data
from rmexp.training.trainer import TrainerSettings


def plan(
    model: Any,
    template: Template,
    data: ComparisonData,
    loss: Loss,
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
        model: where the model comes from; its configuration and tokenizer are read.
        optim: every optimizer of ours keeps the same.

    Raises:
        UserError: it does not fit; says what would make it fit.
    """
    check = functools.partial(check_trainable, data, loss, labels["loss"], labels["data"])
    prepared = prepare_data(model, template, data, seed, run, reporter, check)
    gpu = trainer.resolved_accelerator() == "gpu"
    # `auto` is one device where this machine has no GPU.
    spread = Devices(trainer.strategy, max(1, trainer.processes))
    sharing = max(1, trainer.resolved_devices())
    available = memory_gib * GIBIBYTE if memory_gib else device_memory(gpu, sharing)
    process = 0 if gpu else resident()
    precision = _precision(trainer)
    sizer = sized(model, prepared.tokenizer, data, tune, precision, gpu)
    epoch = lay_out(data, sizer.layout, data.batching.micro_batch_tokens, spread.count)
    needs = sizer.needs(epoch, spread, process)
    facts = _facts(sizer, epoch, needs, spread, trainer, tflops)
    facts |= {
        "model": model.name,
        "tune": type(tune).__name__,
        "precision": precision,
        "layout": sizer.layout.layout,
        "available": int(available),
        "fits": needs.most <= available,
    }
    run.write_json("plan.json", facts)
    run.update(plan=facts)
    reporter.console.print(plan_table.plan_table(facts))
    if not facts["fits"]:
        setting = MachineSetting(
            model, prepared.tokenizer, data, tune, precision, gpu, spread, process, sizer.again,
            data.batching.micro_batch_tokens,
        )  # fmt: skip
        raise UserError(refusal(setting, needs, available))
    return {}


def _precision(trainer: TrainerSettings) -> str:
    """The trainer's; bf16 where a GPU is planned for that is not here to be asked."""
    elsewhere = trainer.resolved_accelerator() == "gpu" and not torch.cuda.is_available()
    if trainer.precision == "auto" and elsewhere:
        return "bf16-mixed"
    return trainer.resolved_precision()


def _facts(
    sizer: Sizer,
    epoch: Epoch,
    needs: Needs,
    devices: Devices,
    trainer: TrainerSettings,
    tflops: float | None,
) -> dict[str, Any]:
    """What `plan.json` holds: memory in bytes, on each device."""
    flops, once = sizer.epoch_flops(epoch), sizer.keeping_flops(epoch)
    epochs = trainer.steps(epoch.steps) / epoch.steps
    rate = None if tflops is None else tflops * 1e12 * devices.count * 3600
    return {
        "parameters": sizer.sizes.all,
        "trainable": sizer.sizes.trainable,
        "parts": dict(sizer.sizes.parts),
        "strategy": devices.strategy,
        "devices": devices.count,
        "gradient_checkpointing": sizer.again,
        "kept_layers": sizer.shape.kept,
        "micro_batch": int(epoch.widest.tokens_R_T.numel()),
        "micro_batches": epoch.most,
        "memory": dict(needs.parts),
        "peak": needs.when,
        "training": needs.training,
        "loading": needs.loading,
        "saving": needs.saving,
        "export": needs.export,
        "keeping": needs.keeping,
        "needed": needs.most,
        "steps": epoch.steps,
        "comparisons": epoch.comparisons,
        "laid_out": epoch.laid_out,
        "tokens": round(epoch.work.tokens),
        "keys": round(epoch.work.keys),
        "flops": flops,
        "keeping_flops": once,
        "epochs": epochs,
        "tflops": tflops,
        "hours": None if rate is None else (flops * epochs + once) / rate,
    }
