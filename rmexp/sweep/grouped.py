"""Jobs of a sweep that train together: heads over the same frozen model, in one process."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rmexp.config import HEAD, build
from rmexp.errors import UserError, fallback, recording
from rmexp.progress import Reporter
from rmexp.sweep.plan import Composed, Plan
from rmexp.tasks.heads import Fitted, HeadRun, end_head, fit_heads
from rmexp.tasks.train import train
from rmexp.tracking import first_line
from rmexp.training import processes

MAY_DIFFER = ("loss", "optim", "seed", "name", "logger", "sweep")
"""Groups and keys in which heads that train together may differ."""


class Together:
    """Knows which jobs of a sweep can train together, and does so when the first one's turn comes.

    Args:
        plan: the sweep.
        cells: its jobs, in the plan's order.
    """

    def __init__(self, plan: Plan, cells: Sequence[Composed]) -> None:
        self.plan = plan
        self._groups: dict[str, list[tuple[str, Composed]]] = {}
        self._of: dict[str, str] = {}
        self._done: dict[str, Fitted | UserError] = {}
        self._apart: dict[str, str] = {}
        for cell, composed in zip(plan.cells, cells, strict=False):
            if (key := _key(composed)) is not None:
                self._groups.setdefault(key, []).append((cell.directory, composed))
                self._of[cell.directory] = key

    def sizes(self) -> list[int]:
        """How many jobs train together, a number a group."""
        return [len(members) for members in self._groups.values() if len(members) > 1]

    def apart(self) -> dict[str, "Together"]:
        """The groups that are left to do, each by itself for another process to do, by the
        directory of its first job."""
        found = {}
        for members in self._groups.values():
            left = self._left(members)
            if len(left) > 1:
                names = [name for name, _ in left]
                cells = [cell for cell in self.plan.cells if cell.directory in names]
                plan = dataclasses.replace(self.plan, cells=cells)
                found[names[0]] = Together(plan, [composed for _, composed in left])
        return found

    def work(self, directory: Path, reporter: Reporter) -> Callable[..., dict[str, float]] | None:
        """What is left to do for a job once its head is trained; None: it trains by itself.

        Raises:
            UserError: its loss finds nothing to learn from in its rows.
        """
        name = directory.name
        if name not in self._done and name in self._of:
            self._train(self._groups.pop(self._of[name], []), reporter)
        if (reason := self._apart.pop(name, None)) is not None:
            return _by_itself(reason)
        found = self._done.pop(name, None)
        if isinstance(found, UserError):
            return functools.partial(_refuse, found)
        return None if found is None else functools.partial(end_head, found)

    def _left(self, members: list[tuple[str, Composed]]) -> list[tuple[str, Composed]]:
        """Those that are to be trained together."""
        # One that can be resumed was begun by itself, and goes on so.
        states = [state for state in self.plan.states() if not state.resumable]
        undone = {state.path.name for state in states if state.status != "done"}
        return [(name, composed) for name, composed in members if name in undone]

    def _train(self, members: list[tuple[str, Composed]], reporter: Reporter) -> None:
        """Train the heads of the members that are left to do; where that fails, each meets it."""
        left = self._left(members)
        if len(left) < 2:
            return
        notes: list[str] = []
        try:
            with recording(notes.append):
                found = fit_heads(_built(left), reporter)
        except Exception as error:  # a job by itself meets it again, and records it
            failed = f"together with others it failed: {first_line(error)}"
            self._apart |= {name: f"Its head trains by itself: {failed}" for name, _ in left}
            return
        for (name, _), outcome in zip(left, found, strict=False):
            if isinstance(outcome, Fitted):
                outcome.notes = [*notes, *outcome.notes]
            self._done[name] = outcome


def _by_itself(reason: str) -> Callable[..., dict[str, float]]:
    """The task of a job that could not train with the others; its run records why."""

    @functools.wraps(train)  # what it is called with stands in the signature
    def alone(**arguments: Any) -> dict[str, float]:
        fallback(reason)
        return train(**arguments)

    return alone


def _refuse(error: UserError) -> dict[str, float]:
    raise error


def _key(composed: Composed) -> str | None:
    """Equal for jobs that can train together; None: it cannot."""
    config = composed.config
    if composed.choices["task"] != "train" or config.resume is not None:
        return None
    if config.tune["_target_"] != HEAD or not config.tune.cache_gib:
        return None
    if processes(config.trainer) > 1:  # these share the rows of one head, not heads
        return None
    content: Any = OmegaConf.to_container(config, resolve=True)
    return json.dumps({k: v for k, v in content.items() if k not in MAY_DIFFER}, sort_keys=True)


def _built(members: Sequence[tuple[str, Composed]]) -> list[HeadRun]:
    """What they have in common is built once."""
    first = members[0][1].config
    groups = ("model", "template", "data", "tune", "trainer")
    shared = {group: build(first[group]) for group in groups}
    return [
        HeadRun(
            **shared,
            loss=build(composed.config.loss),
            optim=build(composed.config.optim),
            seed=composed.config.seed,
            labels={group: composed.choices[group] for group in ("loss", "data", "model")},
            directory=name,
        )
        for name, composed in members
    ]
