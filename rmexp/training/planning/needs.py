"""What a run needs of each device, by part."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from rmexp.batching.collate import BatchLayout
from rmexp.data.comparison_data import ComparisonData
from rmexp.models.layout_probe import check_layout
from rmexp.models.reward_model import (
    backbone,
    fit_tokenizer,
    head_layers,
    head_parameters,
    record_facts,
)
from rmexp.models.tuning import LoRA, frozen_layers, layers
from rmexp.training.frozen_activations import reason_not_cached
from rmexp.training.optim import AdamW
from rmexp.training.planning import memory, work
from rmexp.training.planning.memory import Peak, Shape, without_content

FLOAT = 4
"""Bytes of a weight, a gradient or a moment: all are fp32, whatever a product is computed in."""


HALF = 2
"""Bytes of a number in bf16."""


@dataclass(frozen=True)
class Devices:
    """What a run is spread over: `ddp`, a whole model on each; `fsdp`, each with its part."""

    strategy: Literal["single", "ddp", "fsdp"]
    count: int

    @property
    def words(self) -> str:
        """`fsdp over 8 devices`."""
        return "one device" if self.count == 1 else f"{self.strategy} over {self.count} devices"


@dataclass(frozen=True)
class Sizes:
    """Parameters by part: embeddings, layers, LoRA's adapters in them, all else below the head."""

    parts: Mapping[str, int]
    trainable: int
    outside: int
    outside_trainable: int
    layer: int
    layer_trainable: int

    @property
    def all(self) -> int:
        """All of them, adapters too."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Needs:
    """Bytes on each device.

    parts    at the peak of a training step; gradients and weights on their way between devices and
             what the process holds besides are parts too
    when     the peak is
    loading  all weights, which every process has before it parts them
    saving   a checkpoint of parted weights, put together on a CPU; 0: there is none
    export   on a CPU the trained model, and the exported one beside it, for the proof
    keeping  a forward pass through what is frozen, whose states are kept; 0: none is
    """

    parts: Mapping[str, int]
    when: str
    loading: int
    saving: int
    export: int
    keeping: int

    @property
    def training(self) -> int:
        """The whole peak of a training step."""
        return sum(self.parts.values())

    @property
    def most(self) -> int:
        """What the device must hold at least."""
        return max(self.training, self.loading, self.saving, self.export, self.keeping)


@dataclass(frozen=True)
class Sizer:
    """A model without its weights, and what a run of it needs.

    shape   the model, tuned
    sizes   of it
    again   its layers are checkpointed
    layout  of its batches, by what the model declares
    """

    shape: Shape
    sizes: Sizes
    again: bool
    layout: BatchLayout

    def needs(self, epoch: work.Epoch, devices: Devices, process: int) -> Needs:
        """Bytes on each device; `process`: what its process holds without any tensor."""
        several = epoch.most > 1
        parted = devices.strategy == "fsdp" and devices.count > 1
        share = 1 / devices.count if parted else 1.0
        step = memory.step_peak(self.shape, epoch.widest, several, share)
        weights = FLOAT * self.sizes.all
        keeping = 0
        if self.shape.kept:
            keeping = process + weights + memory.forward_peak(self.shape, epoch.widest).total
        parts = _parts(self.sizes, step, devices)
        if process:
            parts["process"] = process
        saving = export = 0
        if not self.shape.gpu:
            export = process + 2 * weights
        if devices.strategy == "fsdp" and not self.shape.gpu:
            saved = FLOAT * (1 + AdamW.moments) * self.sizes.trainable
            saving = process + parts["weights"] + parts["optimizer"] + saved
        return Needs(parts, step.when, process + weights, saving, export, keeping)

    def epoch_flops(self, epoch: work.Epoch) -> float:
        """Of all devices together."""
        if self.shape.pooled:
            return 0.0
        return work.flops(self.shape.model, epoch.work, self.shape.kept, self.again)

    def keeping_flops(self, epoch: work.Epoch) -> float:
        """Once, for the states of the training rows that are kept."""
        count = len(layers(self.shape.model)) if self.shape.pooled else self.shape.kept
        return work.forward_flops(self.shape.model, epoch.work, count) if self.shape.kept else 0.0


def sized(
    source: Any,
    tokenizer: Any,
    data: ComparisonData,
    tune: Any,
    precision: str,
    gpu: bool,
    again: bool | None = None,
) -> Sizer:
    """The model of a source, made of its configuration alone.

    Args:
        data: prepared.
        again: checkpoint layers; None: as the source says.

    Raises:
        UserError: the model has no such parts as `tune` names, or no head that gives one reward.
    """
    model: Any = source.skeleton()
    fit_tokenizer(model, tokenizer, 0)
    record_facts(model, True, False, attends_to_future=head_layers(model) is None)
    adapters = isinstance(tune, LoRA)
    whole = {name: p.numel() for name, p in model.named_parameters()}
    if adapters:
        tune(model, 0)  # peft moves what it makes, which tensors without content cannot
    mode = without_content(model)
    with mode:
        if not adapters:
            tune(model, 0)
        frozen = frozen_layers(model)
    refused = source.layout == "padded" or check_layout(model) is not None
    layout = BatchLayout("padded" if refused else "tree" if source.layout == "tree" else "mixed")
    pooled = not any(p.requires_grad for p in backbone(model).parameters())
    kept = frozen if tune.cache_gib and frozen else 0
    if kept and reason_not_cached(model, data, pooled, tune.cache_gib) is not None:
        kept = 0
    checkpointed = source.gradient_checkpointing if again is None else again
    if checkpointed:
        model.activation_checkpointing_enable({"use_reentrant": False})
    shape = Shape(mode, model, kept, bool(kept) and pooled, precision, gpu)
    return Sizer(shape, _sizes(model, whole), checkpointed, layout)


def _sizes(model: Any, whole: Mapping[str, int]) -> Sizes:
    every = layers(model)
    inside = {id(p) for layer in every for p in layer.parameters()}
    head = {id(p) for p in head_parameters(model)}
    table = {id(p) for p in model.get_input_embeddings().parameters()}
    parts = dict.fromkeys(("embeddings", "layers", "adapters", "other", "head"), 0)
    for name, p in model.named_parameters():
        plain = name.replace(".base_layer", "") in whole
        home = "head" if id(p) in head else "embeddings" if id(p) in table else "other"
        parts[("layers" if plain else "adapters") if id(p) in inside else home] += p.numel()
    outside = [p for p in model.parameters() if id(p) not in inside]
    largest = max(every, key=_count, default=nn.Module())
    return Sizes(
        {name: count for name, count in parts.items() if count},
        _count(model, trained=True),
        sum(p.numel() for p in outside),
        sum(p.numel() for p in outside if p.requires_grad),
        _count(largest),
        _count(largest, trained=True),
    )


def _count(module: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def _parts(sizes: Sizes, step: Peak, devices: Devices) -> dict[str, int]:
    """A step's peak on each device, by part.

    Under ddp a gradient is there twice, the second time in the buckets that are sent. Under fsdp
    (torch's `fully_shard`) the weights outside of layers are put together for the whole step, those
    of a layer while it is at work, and the next one's before; their gradients likewise. Layers that
    compute in bf16 are put together in it, so that there are no copies.
    """
    moments = FLOAT * AdamW.moments * sizes.trainable
    found = {
        "weights": FLOAT * sizes.all,
        "gradients": step.gradients,
        "optimizer": moments,
        "activations": step.activations,
        "casts": step.casts,
    } | ({"heap": step.heap} if step.heap else {})
    if devices.count == 1 or devices.strategy == "single":
        return found
    gradients = FLOAT * sizes.trainable
    if devices.strategy == "ddp":
        return found | {"exchange": gradients}
    n = devices.count
    wide = HALF if step.casts else FLOAT
    moving = FLOAT * sizes.outside + wide * 2 * sizes.layer
    moving += FLOAT * (sizes.outside_trainable + 2 * sizes.layer_trainable)
    return found | {
        "weights": -(-found["weights"] // n),
        "optimizer": -(-moments // n),
        "gradients": -(-gradients // n),
        "exchange": moving,
        "casts": 0,
    }
