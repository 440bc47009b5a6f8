"""Memory of each device by part, FLOPs, and settings with which a run fits."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from omegaconf import OmegaConf

from rmexp.batching.collate import BatchLayout
from rmexp.batching.epoch_layout import lay_out_epoch
from rmexp.config.compose import build, option_values
from rmexp.core.console import format_bytes
from rmexp.models.reward_model import head_parameters
from rmexp.models.tuning import LoRA
from rmexp.training.optim import AdamW
from rmexp.training.planning.fake_model import FakeModel

FLOAT, HALF = 4, 2  # bytes of weights that train, gradients and moments, and of numbers in bf16
IN_4BIT = 1 / 2 + 1 / 64 + 4 / (64 * 256)  # NF4 with scales of 64 weights in 8 bits
MAX_DEVICES = 1024


def estimate(
    fake: FakeModel, tokens: int, strategy: str, devices: int, process: int
) -> dict[str, Any]:
    """Facts for `plan.json`: bytes on each device, FLOPs of all devices together.

    A micro-batch has at most `tokens`; a process without tensors takes `process` bytes.
    """
    collate = replace(fake.data.collate(BatchLayout(fake.layout)), micro_batch_tokens=tokens)
    steps, partition = fake.data.plan().steps(0), fake.data.partition(0, devices)
    batch, epoch = lay_out_epoch(steps, partition, fake.data.rows, collate)
    trace, cells = fake.trace(batch), batch.tokens_R_T.numel()
    parts, weights, gradients, gathered = _sizes(fake)
    count = sum(parts.values())
    sharded = strategy == "fsdp" and devices > 1
    share = 1 / devices if sharded else 1.0
    phase, peak = trace.peak(share, gradients if epoch["micro_batches"] > 1 else 0)
    memory = {
        "weights": math.ceil(weights * share),
        "gradients": math.ceil(gradients * share) if sharded else peak[2],
        "optimizer": math.ceil(AdamW.moments * gradients * share),
        "activations": peak[0],
        "casts": 0 if sharded else peak[1],  # fully_shard gathers layers in bf16
        "exchange": gathered if sharded else gradients if devices > 1 else 0,  # ddp's buckets
        "process": process,
    }
    saved = memory["weights"] + memory["optimizer"] + (1 + AdamW.moments) * gradients
    needs = {
        "training": sum(memory.values()),
        "loading": process + (weights if fake.gpu else FLOAT * count),
        "saving": 0 if fake.gpu or strategy != "fsdp" else process + saved,
        "export": 0 if fake.gpu else process + 2 * FLOAT * count,
        "keeping": 0,
    }
    config, recompute = fake.model.config.get_text_config(), fake.source.gradient_checkpointing
    layers, heads = len(fake.layers), config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    attention = 4 * width * epoch["keys"]  # of one layer, forward; twice that backward
    passes = layers - fake.cached + (layers - fake.frozen) * (2 + recompute)
    flops, feature_flops = trace.flops() / cells * epoch["tokens"] + passes * attention, 0.0
    if fake.cached:
        features = fake.trace(batch, feature_pass=True)
        needs["keeping"] = process + weights + sum(features.peak()[1])
        feature_flops = features.flops() / cells * epoch["tokens"] + fake.cached * attention
    return {
        "parameters": count,
        "trainable": gradients // FLOAT,
        "parts": parts,
        "gradient_checkpointing": recompute,
        "layout": fake.layout,
        "kept_layers": fake.cached,
        "micro_batch": cells,
        **epoch,
        "memory": memory,
        "peak": phase,
        **needs,
        "needed": max(needs.values()),
        "flops": flops,
        "keeping_flops": feature_flops,
    }


def _sizes(fake: FakeModel) -> tuple[dict[str, int], int, int, int]:
    """Parameters by part; bytes of weights, of gradients, and of what fully_shard gathers."""
    layer_of = {id(p): n for n, layer in enumerate(fake.layers) for p in layer.parameters()}
    part_of = {id(p): "head" for p in head_parameters(fake.model)}
    part_of |= {id(fake.model.get_input_embeddings().weight): "embeddings"}
    parts, moved, weights, gradients = Counter[str](), Counter[int](), 0, 0
    for name, p in fake.parameters.items():
        layer, size, trained = layer_of.get(id(p), -1), p.numel(), p.numel() * p.requires_grad
        part = part_of.get(id(p), "other") if layer < 0 else "layers"
        parts["adapters" if ".lora_" in name else part] += size
        moved[layer] += (HALF if fake.bf16 and layer >= 0 else FLOAT) * size + FLOAT * trained
        in_4bit = fake.tune.load_in_4bit and p.dtype == torch.bfloat16
        weights += math.ceil(IN_4BIT * size) if in_4bit else p.nbytes
        gradients += FLOAT * trained
    # Parameters outside the layers are gathered for the whole step, layers two at a time.
    gathered = moved.pop(-1) + 2 * max(moved.values(), default=0)
    return dict(parts), weights, gradients, gathered


def propose(
    fake: FakeModel, facts: Mapping[str, Any], available: float, tokens: int, process: int
) -> Iterator[str]:
    """Recomputation or smaller micro-batches, LoRA, more devices: of each the mildest that fits.

    `facts` is the estimate, which needs more than `available` bytes.
    """
    if facts["loading"] > available:
        return
    setting = {"tokens": tokens, "strategy": facts["strategy"], "devices": facts["devices"]}

    def fitting(words: str, models: list[FakeModel], **changes: Any) -> str | None:
        for model, more in zip(models, ("", " model.gradient_checkpointing=true"), strict=False):
            needed = estimate(model, process=process, **(setting | changes))["needed"]
            if needed <= available:
                return f"{words}{more} ({format_bytes(needed)})".lstrip()
        return None

    found, models = None, _with_recomputation(fake)
    if facts["training"] - facts["memory"]["activations"] - facts["memory"]["casts"] <= available:
        largest = fake.data.columns.numbers("size").max()
        found = fitting("", models)
        while found is None and (tokens := tokens // 2) >= largest:
            found = fitting(f"data.micro_batch_tokens={tokens}", models, tokens=tokens)
    if found:
        yield found
    if not isinstance(fake.tune, LoRA):
        tune = build(OmegaConf.create(option_values("tune/lora")))
        if adapted := fitting("tune=lora", _with_recomputation(replace(fake, tune=tune))):
            yield adapted
    count = facts["devices"] if facts["strategy"] == "fsdp" else 1
    while found is None and (count := 2 * count) <= MAX_DEVICES:
        words = f"trainer=fsdp on {count} devices"
        if found := fitting(words, models, strategy="fsdp", devices=count):
            yield found


def _with_recomputation(model: FakeModel) -> list[FakeModel]:
    if model.source.gradient_checkpointing:
        return [model]
    return [model, replace(model, source=replace(model.source, gradient_checkpointing=True))]
