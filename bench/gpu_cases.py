"""The cases of `bench gpu`, one after another in this process.

python -m bench.gpu_cases FOLDER OUT SECONDS DEVICE TOY CASE ...
"""

import dataclasses
import datetime
import json
import math
import os
import subprocess
import sys
import time
import traceback
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.gpu_sides import TOY, Setting, measured, rmexp, split, synchronise, trl, waits
from bench.works import ROOT

SIDES = ("trl-default", "trl", "trl-by-length")


def machine(setting: Setting) -> dict[str, Any]:
    """What is measured on, and the FLOP/s of its matmuls at the shapes of the 1.5B model."""
    import torch
    import transformers

    from bench.gpu_sides import MODELS
    from bench.measurement import commit
    from bench.peak import gemm_peak

    shapes = MODELS["toy" if setting.toy else "1.5b"] | {"num_hidden_layers": 1}
    config = transformers.AutoConfig.for_model("qwen2", **shapes)
    with torch.device(setting.device):
        model: Any = transformers.AutoModelForSequenceClassification.from_config(config)
    tokens = 256 if setting.toy else 8192
    found = {"gemm_teraflops": gemm_peak(model, tokens, torch.bfloat16) / 1e12}
    if setting.device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        found |= {"device": facts.name, "memory_gib": facts.total_memory / 2**30}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return found | {"date": date, "commit": commit(), "versions": versions}


def tests(setting: Setting) -> dict[str, Any]:
    """Tests marked gpu: how many passed, and the names of those that did not."""
    report = setting.folder / "tests.xml"
    words = ["-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    environment = os.environ | {"RMEXP_TEST_DEVICE": setting.device}
    subprocess.run(
        [sys.executable, "-m", "pytest", *words, "tests/test_gpu.py"],
        cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, timeout=200,
    )  # fmt: skip
    bad, skipped, passed = [], 0, 0
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            bad.append(str(case.get("name")))
        skipped += "skipped" in kinds
        passed += not kinds & {"failure", "error", "skipped"}
    return {"passed": passed, "not_run": skipped, "failed": bad}


def against(rows: str, model: str, *sides: str) -> Callable[[Setting], dict[str, Any]]:
    """A case: pairs a second and peak memory of rmexp and of some of TRL's settings."""

    def case(setting: Setting) -> dict[str, Any]:
        name = "toy" if setting.toy else model
        found = {"rmexp": measured(lambda: rmexp(rows, name, setting))}
        for side in sides:
            found[side] = measured(lambda side=side: trl(side, rows, name, setting))
        return {"rows": rows, "model": name, "sides": found}

    return case


def alone(rows: str, model: str, *words: str) -> Callable[[Setting], dict[str, Any]]:
    """A case: rmexp with further settings."""

    def case(setting: Setting) -> dict[str, Any]:
        name = "toy" if setting.toy else model
        found = measured(lambda: rmexp(rows, name, setting, words))
        return {"rows": rows, "model": name, "words": words, "sides": {"rmexp": found}}

    return case


def profile(setting: Setting) -> dict[str, Any]:
    """Where the time of a step goes, and how often its CPU waits for the GPU."""
    import lightning
    import torch
    from torch.profiler import ProfilerActivity

    cuda = setting.device == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    profiler, found = torch.profiler.profile(activities=kinds), {}
    setting = dataclasses.replace(setting, seconds=math.inf)
    caught = warnings.catch_warnings(record=True)
    last = setting.warmup + setting.steps - 1

    class Watch(lightning.Callback):
        def on_train_batch_start(self, fit: Any, module: Any, step: Any, index: int) -> None:
            if index == setting.warmup:
                synchronise()
                profiler.start()
                self.started = time.perf_counter()
            if index == last and cuda:
                self.warned = caught.__enter__()
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")

        def on_train_batch_end(self, fit: Any, module: Any, out: Any, step: Any, n: int) -> None:
            if n == last - 1:
                synchronise()
                wall = time.perf_counter() - self.started
                profiler.stop()
                found.update(split(profiler, wall, setting.steps - 1))
            if n == last and cuda:
                torch.cuda.set_sync_debug_mode("default")
                found.update(waits=waits(self.warned or []))
                caught.__exit__(None, None, None)

    name = "toy" if setting.toy else "0.5b"
    rmexp("hh", name, setting, watch=Watch())
    return {"rows": "hh", "model": name, "split": found}


CASES: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "machine": machine,
    "hh": against("hh", "0.5b", *SIDES),
    "k8": against("k8", "0.5b", "trl-default", "trl"),
    "uniform": against("uniform", "0.5b", "trl-default", "trl"),
    "mfu": alone("hh64", "1.5b"),
    "tests": tests,
    "profile": profile,
    "ukp": against("ukp", "0.5b", "trl"),
    "16k": against("16k", "0.5b", "trl-default", "trl"),
    "hh-1.5b": against("hh", "1.5b", "trl-default", "trl"),
    "lora-1.5b": alone("hh", "1.5b", "tune=lora", "optim.lr=2e-4"),
    "compile": alone("hh", "0.5b", "model.compile=true"),
    "hh-smollm2": against("hh", "smollm2", "trl-default", "trl"),
    "k4": against("k4", "0.5b", "trl"),
    "k2": against("k2", "0.5b", "trl"),
    "4k": against("4k", "0.5b", "trl"),
    "1k": against("1k", "0.5b", "trl"),
    "checkpointing-16k": alone("16k", "1.5b", "model.gradient_checkpointing=true"),
}
"""The most telling first: what does not fit into the minutes is skipped."""


def work(names: Sequence[str], setting: Setting, out: Path, seconds: float) -> None:
    """Run cases until the seconds are used; each that ends is a line."""
    deadline = time.monotonic() + seconds
    for name in names:
        if time.monotonic() >= deadline:
            return
        started = time.monotonic()
        try:
            found = CASES[name](setting)
        except Exception as error:  # the other cases are measured all the same
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"[:500]}
        found |= {"case": name, "seconds": round(time.monotonic() - started, 1)}
        with open(out, "a") as stream:
            stream.write(json.dumps(found) + "\n")
        print(f"{name}: {found['seconds']} s {found.get('error', '')}", flush=True)


def main() -> None:
    """Run the cases that the command line names."""
    folder, out, seconds, device, toy, *names = sys.argv[1:]
    setting = Setting(Path(folder), device, **(TOY if int(toy) else {}))
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            sys.exit("bench gpu: torch sees no GPU here; --toy --device cpu tries the code")
    work(names, setting, Path(out), float(seconds))


if __name__ == "__main__":
    main()
