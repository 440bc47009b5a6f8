"""What a measurement records beside its figures, and the processes that make them."""

import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.works import ROOT

PACKAGES = ("torch", "transformers", "trl", "lightning", "numpy")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Of a CPU: what the speed of its matrix products depends on."""


def heading(name: str) -> dict[str, Any]:
    """The facts recorded with each line."""
    return {
        "work": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
    }


def command(module: str, *words: Any) -> dict[str, Any]:
    """Arguments of `subprocess` for a module of bench/."""
    environment = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    arguments = [sys.executable, "-m", module, *map(str, words)]
    return {"args": arguments, "cwd": ROOT, "env": os.environ | environment, "text": True}


def process(module: str, *words: Any) -> Any:
    """The JSON that a process prints as its last line."""
    done = subprocess.run(**command(module, *words), capture_output=True)
    if done.returncode != 0:
        shown = f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        sys.exit(f"bench: {module} {' '.join(map(str, words))} failed:\n{shown}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def machine() -> dict[str, Any]:
    """Machine and versions that figures depend on."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):  # Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = {key.strip(): value.strip() for key, _, value in (s.partition(":") for s in lines)}
    # Virtual machines often hide a model's name: "AMD EPYC" are several generations.
    kind = [f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    cpu = facts.get("model name", platform.processor() or platform.machine())
    flags = facts.get("flags", "").split()
    return {
        "cpu": f"{cpu} ({', '.join(kind)})" if kind else cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "flags": [flag for flag in FLAGS if flag in flags],
    }


def machine_words(found: dict[str, Any]) -> str:
    """A machine in a line; lines of earlier versions list the flags for bf16 only."""
    flags = found["flags"] if "flags" in found else found["bf16"]
    missing = [flag for flag in FLAGS if "bf16" in flag and flag not in flags]
    shown = ", ".join([*flags, *(f"no {flag}" for flag in missing)])
    return f"{found['cpu']}, {found['cores']} cores, {found['memory_gib']} GiB, {shown}"


def commit() -> str | None:
    """The measured commit, with a + if rmexp/ or conf/ has uncommitted changes."""

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = ask("status", "--porcelain", "--", "rmexp", "conf")
        return ask("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
