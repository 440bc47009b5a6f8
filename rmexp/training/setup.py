"""The first steps of several tasks: tokenizer, data and model, the cheapest checks first."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch

from rmexp.batching.collate import BatchLayout
from rmexp.core import distributed
from rmexp.core.console import Reporter
from rmexp.core.devices import Precision
from rmexp.core.errors import UserError, note_fallback
from rmexp.data.comparison_data import ComparisonData
from rmexp.inference.export import check_fingerprint
from rmexp.models.frozen_weights import hold_in_4bit, hold_in_bf16
from rmexp.models.head_file import load_outputs
from rmexp.models.heads import HeadSettings
from rmexp.models.layout_probe import choose_layout, restrict_final_layer
from rmexp.models.model_checks import check_padding, length_dependent, max_positions
from rmexp.models.reward_model import compile_layers, model_facts
from rmexp.templates.template import Audit, Template, audit_template
from rmexp.tracking.environment import describe_environment
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.trainer import TrainerSettings


@dataclasses.dataclass
class Prepared:
    """A tokenizer with the template, the data rendered with it, and notes on both."""

    tokenizer: Any
    data: ComparisonData
    audit: Audit
    template_note: str | None = None


def prepare_data(
    source: Any,
    template: Template,
    data: ComparisonData,
    seed: int,
    run: RunDirectory,
    reporter: Reporter,
    check: Callable[[], None] = lambda: None,
    others: Sequence[ComparisonData] = (),
) -> Prepared:
    """`prepare`, and report it."""
    prepared = prepare(source, template, data, seed, reporter, check, others)
    report_prepared(prepared, seed, run, reporter, others)
    return prepared


def prepare(
    source: Any,
    template: Template,
    data: ComparisonData,
    seed: int,
    reporter: Reporter,
    check: Callable[[], None] = lambda: None,
    others: Sequence[ComparisonData] = (),
) -> Prepared:
    """Load the tokenizer, install the template, read, tokenise and check the data.

    No model is loaded, so that bad rows stop a run within seconds.

    Args:
        check: called once the data is tokenised.
        others: further data for the same model.
    """
    everything = [data, *others]
    for one in everything:
        one.check()
    tokenizer = source.load_tokenizer()
    note = template.install(tokenizer)
    for one in everything:
        one.prepare(tokenizer, seed, reporter.count)
    check()
    audit = audit_template(tokenizer, *data.example())
    if audit.bos_count > 1:
        raise UserError(
            f"The template begins a text with {audit.bos_count} BOS tokens; write one at most."
        )
    return Prepared(tokenizer, data, audit, note)


def report_prepared(
    prepared: Prepared,
    seed: int,
    run: RunDirectory,
    reporter: Reporter,
    others: Sequence[ComparisonData] = (),
) -> None:
    """Print facts about data and template, and write them to `environment.json`."""
    everything, audit, note = [prepared.data, *others], prepared.audit, prepared.template_note
    lines = [line for one in everything for line in one.lines()]
    reporter.say_once(*lines, *([note] if note else []), *audit.lines())
    reports = [one.report.to_dict() for one in everything]
    facts = {
        "data": reports if others else reports[0],
        "template": dataclasses.asdict(audit),
        "seed": seed,
        "data_fingerprint": "+".join(one.fingerprint for one in everything),
    }
    run.write_json("environment.json", describe_environment(**facts))
    if prepared.data.held_out is not None:
        run.update(fold=prepared.data.held_out)
    if prepared.data.corrected:
        run.update(corrections=prepared.data.corrected)


def load_model(
    source: Any,
    prepared: Prepared,
    seed: int,
    run: RunDirectory,
    reporter: Reporter,
    device: str,
    tune: Any = None,
    head: HeadSettings | None = None,
    precision: Precision = "32-true",
) -> tuple[Any, BatchLayout]:
    """`open_model`, and report it."""
    model, layout = open_model(source, prepared, seed, device, tune, head, precision)
    facts = parameter_counts(model, tune)
    run.update(**facts, layout=layout.layout)
    parameters = f"{_millions(facts['parameters'])} parameters"
    if tune is not None:
        parameters += f", {_millions(facts['trainable'])} train ({tune.describe(model)})"
    reporter.say_once(f"model: {source.name}, {parameters}, layout {layout.layout}")
    return model, layout


def open_model(
    source: Any,
    prepared: Prepared,
    seed: int,
    device: str,
    tune: Any = None,
    head: HeadSettings | None = None,
    precision: Precision = "32-true",
) -> tuple[Any, BatchLayout]:
    """Load the reward model, check that it fits the data, and choose the layout on its device.

    Args:
        tune: which part trains, see `tuning`; None: nothing.
        head: the outputs that it gets; None: those that it has.
        precision: in which it will compute; what is frozen is held in it, and without `tune` all.

    Raises:
        UserError: the model has fewer positions than the longest row needs, or padding would
            change its rewards.
    """
    model = source.load_model(prepared.tokenizer, seed)
    if head is not None:
        head.install(model, seed)
    if tune is not None:
        tune(model, seed)
    if tune is not None and tune.load_in_4bit:
        hold_in_4bit(model)
    elif precision == "bf16-mixed":
        hold_in_bf16(model, everything=tune is None)
    positions, longest = max_positions(model), prepared.data.longest()
    if positions is not None and longest > positions:
        raise UserError(
            f"The longest row has {longest} tokens, the model {positions} positions: "
            f"set data.max_length={positions}."
        )
    if (known := length_dependent(model, longest)) is not None:
        note_fallback(known)
    model.to(device)  # the layout is verified with the kernels that will train
    check_padding(model, prepared.tokenizer.pad_token_id)
    layout = BatchLayout(choose_layout(model, source.layout), positions)
    restrict_final_layer(model)
    if source.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if source.compile:
        compile_layers(model)
    return model, layout


def parameter_counts(model: Any, tune: Any = None) -> dict[str, int]:
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"parameters": model_facts(model).size} | (
        {} if tune is None else {"trainable": trainable}
    )


def training_facts(trainer: TrainerSettings, data: ComparisonData, steps: int) -> dict[str, Any]:
    return {
        "kinds": data.counts("train"),
        "sampled": data.sampled(),
        "precision": trainer.resolved_precision(),
        "total_steps": steps,
        "strategy": trainer.strategy if distributed.world_size() > 1 else "single",
        "devices": trainer.resolved_devices(),
        "nodes": trainer.num_nodes,
    }


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 10**5 else f"{count:,}"


def load_trained(
    source: Any,
    prepared: Prepared,
    seed: int,
    run: RunDirectory,
    reporter: Reporter,
    device: str,
    precision: Precision = "32-true",
) -> tuple[Any, BatchLayout]:
    """Load a trained reward model; see `open_model`.

    Raises:
        UserError: it has no head, or another template than in training.
    """
    if (directory := getattr(source, "path", None)) is not None:
        check_fingerprint(Path(directory), prepared.tokenizer)
    model, layout = load_model(source, prepared, seed, run, reporter, device, precision=precision)
    load_outputs(model, source)
    if model_facts(model).fresh_head:
        raise UserError(f"{source.path} has no reward head (score.weight): train it first.")
    return model, layout


def report_warnings(verdicts: Sequence[str], run: RunDirectory, reporter: Reporter) -> None:
    """Print warnings about the rewards, and write them to `result.json`."""
    run.update(verdicts=list(verdicts))
    reporter.say(*(f"! {sentence}" for sentence in verdicts))


def seed_everything(seed: int) -> None:
    """Seed every random generator, and prefer deterministic kernels."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with it
    lightning.seed_everything(seed, verbose=False)
    torch.use_deterministic_algorithms(True, warn_only=True)
