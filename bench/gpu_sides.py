"""rmexp and TRL's RewardTrainer on the rows of a distribution, timed in this process."""

import contextlib
import functools
import gc
import itertools
import json
import random
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.gpu_rows import LENGTHS, write_rows
from bench.prepare import RATE, batches, by_length, flat, judged_pairs, start
from bench.sides import laid_out

LONGEST = 32768
"""Tokens; no row has more."""

SMALL = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64}
QWEN = {"vocab_size": 151936, "num_key_value_heads": 2, "max_position_embeddings": LONGEST}
MODELS = {
    "0.5b": QWEN | {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
                    "num_attention_heads": 14},
    "1.5b": QWEN | {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
                    "num_attention_heads": 12},
    "toy": QWEN | SMALL | {"vocab_size": 49152, "intermediate_size": 128, "num_hidden_layers": 2},
}  # fmt: skip
"""Shapes of Qwen2.5."""


@dataclass(frozen=True)
class Setting:
    """Where and how large: steps before the clock starts and after, at most some seconds of them.

    `shrink` divides lengths and numbers of rows.
    """

    folder: Path
    device: str
    steps: int = 12
    warmup: int = 4
    seconds: float = 6.0
    shrink: int = 1
    toy: bool = False


TOY = {"steps": 2, "warmup": 1, "shrink": 16, "toy": True}


class StepsDone(Exception):
    """The steps that were to be timed are over."""


@dataclass
class Clock:
    """Reads the clock where the GPU has done all that it was asked, before and after the steps."""

    setting: Setting
    done: int = 0
    pairs: int = 0
    batches: list[Any] = field(default_factory=list)
    started: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)

    def tick(self, pairs: int, batches: Sequence[Any] = ()) -> None:
        """After each step; raises StepsDone after the last."""
        self.done += 1
        timed = self.done - self.setting.warmup
        if timed == 0:
            synchronise()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            self.started = time.perf_counter()
        if timed <= 0:
            return
        self.pairs += pairs
        self.batches.append(list(batches))
        spent = time.perf_counter() - self.started
        if timed < self.setting.steps and not (timed >= 3 and spent > self.setting.seconds):
            return
        synchronise()
        seconds = time.perf_counter() - self.started
        self.figures = {
            "pairs_per_second": self.pairs / seconds,
            "step_seconds": seconds / timed,
            "steps": timed,
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30
            if torch.cuda.is_available()
            else None,
        }
        raise StepsDone


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measured(side: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures of a side, or why there are none; its memory is freed."""
    try:
        return side()
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    except Exception as error:  # the other sides are measured all the same
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def model_folder(name: str, setting: Setting) -> Path:
    """A model with a fresh head and SmolLM2's tokenizer: SmolLM2 itself, or random weights."""
    import transformers

    if name == "smollm2":
        start(setting.folder)
        return setting.folder / "start"
    tokenizer, home = smollm2_tokenizer(), setting.folder / name
    if not home.is_dir():
        config = transformers.AutoConfig.for_model("qwen2", **MODELS[name], num_labels=1)
        config.pad_token_id = tokenizer.pad_token_id
        torch.manual_seed(0)
        with torch.device(setting.device):
            model: Any = transformers.AutoModelForSequenceClassification.from_config(
                config, dtype=torch.bfloat16
            )
        model.save_pretrained(home)
        tokenizer.save_pretrained(home)
    return home


@functools.cache
def smollm2_tokenizer() -> Any:
    """With its template."""
    from rmexp.config.compose import build, compose_config
    from rmexp.config.schema import register

    register()
    config = compose_config(["model=smollm2"])
    tokenizer = build(config.model).load_tokenizer()
    build(config.template).install(tokenizer)
    return tokenizer


def command_line(rows: str, model: Path, setting: Setting, more: Sequence[str] = ()) -> list[str]:
    """rmexp's command line."""
    home, lengths = setting.folder / rows, LENGTHS[rows]
    if not home.is_dir():
        home.mkdir()
        write_rows(home, lengths, smollm2_tokenizer(), setting.shrink)
    grouped = "data.group_by_prompt=true" in lengths.words
    answer_only = ("template=jinja", f"template.path={home}/answer.jinja")
    return [
        "model=hf", f"model.path={model}", f"cache={setting.folder / 'cache'}",
        "data=jsonl", f"data.path={home}/rows.jsonl", f"data.val_path={home}/val.jsonl",
        "data.test_share=0", f"data.max_length={LONGEST}",
        f"data.batch_size={1 if grouped else lengths.pairs}", *lengths.words,
        *(answer_only if lengths.apart else ()),
        "loss=bradley_terry", "logger=none", "trainer.validations=1", "trainer.max_epochs=9",
        "trainer.precision=bf16",
        f"trainer.accelerator={'gpu' if setting.device == 'cuda' else 'cpu'}",
        f"optim.lr={RATE}", "optim.head_lr=null", "optim.schedule=constant", "optim.warmup=0",
        *more,
    ]  # fmt: skip


def rmexp(
    rows: str, model: str, setting: Setting, more: Sequence[str] = (), watch: Any = None
) -> dict[str, Any]:
    """Steps of rmexp's training, by the parts that task=train has; its distinct tokens and FLOPs.

    `watch` is one more callback of Lightning's.
    """
    import lightning

    from bench.peak import step_flops
    from rmexp.config.compose import build, compose_config
    from rmexp.config.schema import register
    from rmexp.core.console import Reporter
    from rmexp.tracking.run_directory import RunDirectory
    from rmexp.training.lightning_module import RewardModule
    from rmexp.training.setup import open_model, prepare, seed_everything

    register()
    seed_everything(0)
    config = compose_config(command_line(rows, model_folder(model, setting), setting, more))
    parts = ("model", "template", "data", "loss", "head", "tune", "optim", "trainer")
    source, template, data, loss, head, tune, optim, trainer = (build(config[p]) for p in parts)
    prepared = prepare(source, template, data, 0, Reporter(quiet=True))
    where, precision = trainer.device(), trainer.resolved_precision()
    network, layout = open_model(source, prepared, 0, where, tune, head, precision)
    clock = Clock(setting)

    class Timed(lightning.Callback):
        def on_train_batch_end(
            self, fit: Any, module: Any, out: Any, step: Any, index: int
        ) -> None:
            clock.tick(sum(len(b.better_P) for b in step.batches), step.batches)

    steps = trainer.steps(len(data.plan()))
    module = RewardModule(network, head.losses(loss, data, 0), data, layout, optim, steps)
    module.train()
    run = RunDirectory(setting.folder / "run")
    fit = trainer.build(run, [], [*([watch] if watch else []), Timed()])
    with contextlib.suppress(StepsDone):
        fit.fit(module, data.train_loader(layout), data.eval_loader("val", layout))
    trees = [[t for batch in step for t in laid_out(batch)] for step in clock.batches]
    tokens = [sum(tree.size for tree in step) for step in trees]
    return clock.figures | {
        "layout": layout.layout,
        "tokens": sum(tokens) / len(tokens),
        "teraflops": sum(step_flops(network, step) for step in trees) / len(trees) / 1e12,
    }


def trl(side: str, rows: str, model: str, setting: Setting) -> dict[str, Any]:
    """Steps of TRL's RewardTrainer on the pairs of rmexp's steps, in their order."""
    from trl import RewardTrainer

    from bench.sides import trl_trainer

    torch.use_deterministic_algorithms(False)  # rmexp sets it
    folder, size = model_folder(model, setting), LENGTHS[rows].pairs
    tokenizer, every = trl_pairs(rows, folder, setting)
    found = batches(every, size)
    if side == "trl-by-length":
        found = by_length(every, random.Random(0), size)
    found = list(itertools.islice(itertools.cycle(found), setting.warmup + setting.steps))
    clock = Clock(setting)

    class Timed(RewardTrainer):
        def training_step(self, *arguments: Any, **named: Any) -> Any:
            loss = super().training_step(*arguments, **named)
            clock.tick(size)
            return loss

    trainer = trl_trainer(
        folder,
        tokenizer,
        flat(found),
        setting.folder / "trl",
        trainer=Timed,
        per_device_train_batch_size=size,
        max_steps=setting.warmup + setting.steps,
        gradient_accumulation_steps=LENGTHS[rows].accumulate,
        max_length=LONGEST,
        use_cpu=setting.device == "cpu",
        bf16=True,
        **({} if side == "trl-default" else {"gradient_checkpointing": False}),
    )
    with contextlib.suppress(StepsDone):
        trainer.train()
    real = [n for pair in flat(found) for n in pair["lengths"]]
    return clock.figures | {"tokens": sum(real) / len(found)}


def trl_pairs(rows: str, model: Path, setting: Setting) -> tuple[Path, list[Any]]:
    """The tokenizer with the template, and the pairs of rmexp's steps, as many as are timed."""
    from rmexp.config.compose import build, compose_config
    from rmexp.config.schema import register

    home = setting.folder / f"{rows}-trl"
    if not home.is_dir():
        register()
        composed = compose_config(command_line(rows, model, setting))
        source, data = build(composed.model), build(composed.data)
        tokenizer = source.load_tokenizer()
        build(composed.template).install(tokenizer)
        data.prepare(tokenizer, 0, lambda *_: None)
        made, wanted = judged_pairs(data), LENGTHS[rows].pairs * (setting.steps + setting.warmup)
        pairs = (pair for step in data.plan().steps(0) for row in step for pair in made(row))
        tokenizer.save_pretrained(home)
        (home / "pairs.json").write_text(json.dumps(list(itertools.islice(pairs, wanted))))
    return home, json.loads((home / "pairs.json").read_text())


def split(profiled: Any, wall: float, steps: int) -> dict[str, Any]:
    """Seconds of a step that the GPU computes, copies and idles."""
    kernels = [e for e in profiled.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    spans = sorted((e.time_range.start, e.time_range.end) for e in kernels)
    busy, last = 0.0, float("-inf")
    for begin, end in spans:
        busy += max(0.0, end - max(begin, last))
        last = max(last, end)
    copies = sum(e.time_range.end - e.time_range.start for e in kernels if "Mem" in e.name[:3])
    return {
        "step_ms": wall / steps * 1e3,
        "compute_ms": (busy - copies) / steps / 1e3,
        "copies_ms": copies / steps / 1e3,
        "idle_ms": wall / steps * 1e3 - busy / steps / 1e3,
        "kernels": len(kernels) / steps,
    }


def waits(warned: Sequence[warnings.WarningMessage]) -> int:
    """How often the CPU waited for the GPU, of the warnings of torch's sync debug mode."""
    return sum("synchroniz" in str(one.message) for one in warned)
