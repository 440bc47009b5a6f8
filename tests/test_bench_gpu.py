"""`python -m bench gpu`: its code, at the size of a test and on a CPU."""

import json
import subprocess
import sys

import pytest

from bench import gpu, gpu_cases
from bench.gpu_results import tables
from bench.gpu_sides import TOY, Setting
from tests.conftest import ROOT


def lines(file):
    return [json.loads(one) for one in file.read_text().splitlines()]


@pytest.mark.slow
def test_a_case_trains_and_becomes_a_line(tmp_path):
    out = tmp_path / "gpu.jsonl"
    gpu_cases.work(["lora-1.5b"], Setting(tmp_path, "cpu", **TOY), out, seconds=600)
    (line,) = lines(out)
    found = line["sides"]["rmexp"]
    assert found["pairs_per_second"] > 0
    assert (found["steps"], found["layout"], found["peak_gib"]) == (2, "mixed", None)
    assert (
        f"| lora-1.5b | toy | rmexp tune=lora optim.lr=2e-4 | {found['pairs_per_second']:.1f}"
        in (tables([line]))
    )


def test_a_process_that_dies_costs_its_case_and_what_is_left_over_is_skipped(tmp_path, monkeypatch):
    out, began = tmp_path / "gpu.jsonl", []

    def work(chosen, folder, deadline, left):
        began.append(left)
        gpu.add(out, left[0], passed=1, failed=[])
        return "CUDA error" if len(began) < 2 else None

    monkeypatch.setattr(gpu, "work", work)
    times = iter([0.0, 1.0, 2.0, 99.0])
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(times))
    words = ["--toy", "--device", "cpu", "--minutes", "1", "--out", str(out)]
    gpu.main([*words, "machine", "hh", "k8", "uniform"])
    assert began == [["machine", "hh", "k8", "uniform"], ["k8", "uniform"]]
    kinds = {line["case"]: line.get("error") or line.get("skipped") for line in lines(out)}
    assert kinds == {
        "machine": None, "hh": "CUDA error", "k8": None, "uniform": "the 1 minutes were used"
    }  # fmt: skip


def test_floors_are_judged():
    def case(name, ours, theirs):
        rate = {"step_seconds": 0.1, "peak_gib": 20.0}
        sides = {"rmexp": rate | {"pairs_per_second": ours, "teraflops": 50.0}}
        sides["trl-default"] = rate | {"pairs_per_second": theirs}
        return {"case": name, "model": "0.5b", "sides": sides}

    machine = {"case": "machine", "device": "NVIDIA H100", "memory_gib": 80, "commit": "abc"}
    k8 = case("k8", 40.0, 5.0)
    k8["sides"]["trl"] = {"failed": "out of memory"}
    shown = tables([machine, case("hh", 30.0, 20.0), k8, case("mfu", 9.0, 1.0)])
    assert "| hh, against TRL, its defaults (checkpointing on) | 2x | 1.50x | FAIL |" in shown
    assert "| k8, against TRL, its defaults (checkpointing on) | 4x | 8.00x | pass |" in shown
    assert "| uniform, against TRL, checkpointing off | 0.95x |  | not measured |" in shown
    assert "| MFU at 1.5B | 35% | 51% | pass |" in shown
    assert "| k8 | 0.5b | TRL, checkpointing off | out of memory |" in shown


@pytest.mark.soak
def test_it_runs_from_the_command_line(tmp_path):
    out = tmp_path / "gpu.jsonl"
    words = [
        "--toy",
        "--device",
        "cpu",
        "--out",
        out,
        "machine",
        "hh",
        "uniform",
        "profile",
        "tests",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "gpu", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = {line["case"]: line for line in lines(out)}
    assert not any("error" in line for line in found.values())
    assert found["tests"]["failed"] == []
    assert found["tests"]["passed"] > 60
    assert all("failed" not in side for side in found["hh"]["sides"].values())
