"""`python -m bench quick`: turns, a work that fails, and the table."""

import io
import json

import pytest

from bench import quick, sides
from bench.prepare import by_length
from bench.quick_results import compared
from bench.quick_results import quick as section


def test_a_side_reports_its_warm_up_and_then_each_turn_that_is_asked_for(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 12.0, 50.0, 51.0, 53.0])  # made, first step; warm-up; asked; 2 steps
    monkeypatch.setattr(sides.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr("sys.stdin", io.StringIO("2\n"))
    left = []
    monkeypatch.setattr(sides.os, "_exit", lambda code: left.append(code))
    steps = sides.Steps(timed=24, warmup=1, turns=True)
    steps.begin()
    assert steps.end() == slice(0, 1)
    steps.report({"seconds": steps.seconds})
    steps.begin()  # counts for the first step alone
    assert steps.end() is None
    turn = steps.end()
    assert steps.seconds[turn] == [1.0, 2.0]
    found = sides.rates(steps.seconds[turn], [8, 7], [100, 200])
    assert found == {"pairs_per_second": 5, "seconds": [1, 2], "pairs": 15, "pair_tokens": 300}
    assert json.loads(capsys.readouterr().out) == {"seconds": [2.0]}
    assert left == []


def test_in_one_turn_the_warm_up_is_not_reported(monkeypatch):
    clock = iter([0.0, 9.0, 10.0, 12.0])
    monkeypatch.setattr(sides.time, "perf_counter", lambda: next(clock))
    steps = sides.Steps(timed=2, warmup=1, turns=False)
    assert [steps.end() for _ in range(3)] == [None, None, slice(1, 3)]
    assert steps.seconds == [9.0, 1.0, 2.0]


def test_micro_batches_in_a_row_are_of_all_lengths():
    pairs = [{"lengths": [n, n // 2]} for n in range(16)]
    found = by_length(pairs, size=2)
    assert sorted(pair["lengths"][0] for batch in found for pair in batch) == list(range(16))
    longest = [batch[0]["lengths"][0] for batch in found]
    assert sorted(longest) == [1, 3, 5, 7, 9, 11, 13, 15]
    for start in range(5):
        assert sum(longest[start : start + 4]) == pytest.approx(32, abs=8)  # of 16 to 48


def test_a_work_that_fails_costs_no_other(tmp_path, monkeypatch, capsys):
    def measure(name, folder, until, deadline, most):
        if name == "quick-hh":
            raise SystemExit("bench: out of memory")
        ours = {"pairs_per_second": 4.0, "seconds": [2.0], "pair_tokens": 900}
        theirs = {"pairs_per_second": 2.0, "seconds": [3.0], "pair_tokens": 900}
        rounds = [{"rmexp": ours, "trl-default": theirs, "trl": theirs}] * 3
        return {"machine": MACHINE, "precision": "32-true", "layers": 8, "steps": [1, 2, 2],
                "rounds": rounds}  # fmt: skip

    def sweep(name, folder, deadline):
        rounds = [{"rmexp": {"seconds": 30}, "trl": {"seconds": n}} for n in (25, 50, 100)]
        return {"machine": MACHINE, "precision": "32-true", "layers": 8, "steps": [4],
                "rounds": rounds}  # fmt: skip

    monkeypatch.setattr(quick, "measure", measure)
    monkeypatch.setattr(quick, "measure_sweep", sweep)
    out = tmp_path / "quick.jsonl"
    with pytest.raises(SystemExit, match="failed: quick-hh"):
        quick.main(["quick-hh", "quick-uniform", "quick-sweep", "--out", str(out)])
    printed = capsys.readouterr()
    assert "quick-hh failed: bench: out of memory" in printed.err
    assert section(out) == printed.out.rstrip("\n") + "\n"
    assert (
        "Zen, 2 cores, 24 GiB, avx2, no avx512_bf16, no amx_bf16: 32-true, 8 of 30" in printed.out
    )
    uniform = "| 3 x 1-2 | 4.00 | 2.00 | 1.50x (1.50x-1.50x) | 0.95x |  | floor |"
    assert printed.out.count(uniform) == 2
    assert "| 3 x 4 | 30 s | 600 s | 20.0x (10.0x-40.0x) |  |  |  |" in printed.out


MACHINE = {"cpu": "Zen", "cores": 2, "memory_gib": 24, "flags": ["avx2"]}


def test_rewards_become_their_largest_difference():
    found = compared({"rmexp": {"rewards": [1.0, 2.0]}, "padded": {"rewards": [1.0, 2.5]}})
    assert found == {"rmexp": {"largest_difference": 0.0}, "padded": {"largest_difference": 0.5}}
