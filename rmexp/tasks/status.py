"""task=status: the progress of sweeps. Reads their directories, and writes nothing."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from rmexp.core.console import Reporter
from rmexp.core.errors import UserError
from rmexp.runner.sweep_plan import SWEEP_FILE, headline, read_plan
from rmexp.tracking.run_state import State

SWEEPS = Path("outputs/sweeps")


def status(runs: str | list[str] | None, reporter: Reporter) -> dict[str, float]:
    """Print the state, step, time, and result or error of each job of the sweeps in `runs`.

    Args:
        runs: a sweep's directory, or several; None: the newest in full, the others in a line each.

    Raises:
        UserError: there is no such sweep.
    """
    given = [runs] if isinstance(runs, str) else [str(one) for one in runs or ()]
    found = [Path(one).expanduser() for one in given]
    for home in found:
        if not (home / SWEEP_FILE).is_file():
            raise UserError(f"runs={home}: there is no sweep in it (no {SWEEP_FILE}).")
    if not found:
        here = [file.parent for file in SWEEPS.glob(f"*/{SWEEP_FILE}")]
        found = sorted(here, key=lambda home: (home / SWEEP_FILE).stat().st_mtime)
    if not found:
        raise UserError(f"There is no sweep in {SWEEPS}; name one: runs=DIRECTORY.")
    for home in found:
        plan = read_plan(home)
        states = plan.states()
        reporter.say(f"{home}: {summary(states)}")
        if given or home == found[-1]:
            reporter.console.print(_table(states))
            reporter.say(*(f"left out: {sentence}" for sentence in plan.left_out))
    return {}


def summary(states: Sequence[State]) -> str:
    """`3 done, 1 running, 8 pending`."""
    counts = Counter(state.status for state in states)
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or "nothing started"


def _table(states: Sequence[State]) -> Table:
    table = Table("status", "run", "step", "seconds", "", box=None, padding=(0, 2, 0, 0))
    for state in states:
        result = state.result
        seconds = result.get("seconds")
        table.add_row(
            state.status,
            state.path.name,
            _step(state),
            "" if seconds is None else f"{seconds:.0f}",
            _note(state),
        )
    return table


def _step(state: State) -> str:
    """The last logged step, and the total."""
    file, total = state.path / "metrics.jsonl", state.result.get("total_steps")
    if total is None or not file.is_file():
        return ""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return f"{json.loads(lines[-1])['step'] if lines else 0}/{total}"


def _note(state: State) -> str:
    if state.status == "dead":
        return f"no heartbeat since {state.result.get('heartbeat') or 'its start'}"
    return headline(state)
