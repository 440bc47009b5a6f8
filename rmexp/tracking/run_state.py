"""How a run stands, read from its directory alone: done, at work, dead, failed, or not begun."""

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import psutil

STALE_SECONDS = 60
"""A run without a heartbeat for so long is not at work."""


Status = Literal["done", "running", "dead", "interrupted", "failed", "broken", "left"]


@dataclass(frozen=True)
class State:
    """A run's status and its `result.json`.

    done         finished
    running      a live process works on it
    dead         it says that it is running, but its process is gone, or sends no sign of life
    interrupted  stopped by Ctrl-C, or by a full disk
    failed       an error ended it
    broken       its result.json is not whole
    left         not begun
    """

    status: Status
    path: Path
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def resumable(self) -> bool:
        """Can it go on from a checkpoint? A failed one cannot: it would fail again."""
        begun = "task" in self.result and (self.path / "config.yaml").is_file()
        last = self.path / "checkpoints" / "last.ckpt"
        return self.status in ("dead", "interrupted") and begun and last.is_file()


def read_state(home: Path) -> State:
    """The state of a run directory, which need not exist."""
    file = home / "result.json"
    try:
        result = json.loads(file.read_text())
        status = result["status"]
    except FileNotFoundError:
        return State("left", home)
    except (ValueError, KeyError, TypeError):
        return State("broken", home)
    if status == "running":
        return State("running" if _at_work(result, file) else "dead", home, result)
    if status == "failed" and result.get("interrupted"):
        return State("interrupted", home, result)
    return State(status, home, result)


def known_state(home: Path) -> State:
    """The state of a run that one wants to take up.

    Another process, or another host that is gone, may have left it as running a moment ago: this
    waits until that gives its next sign of life, or counts as dead.
    """
    state = read_state(home)
    last = state.result.get("heartbeat")
    while state.status == "running" and state.result.get("heartbeat") == last:
        time.sleep(0.2)
        state = read_state(home)
    return state


def _at_work(result: Mapping[str, Any], file: Path) -> bool:
    beat = result.get("heartbeat")
    signed = file.stat().st_mtime if beat is None else datetime.fromisoformat(beat).timestamp()
    if time.time() - signed > STALE_SECONDS:
        return False
    return lives(result["pid"], result["host"], signed)


def lives(pid: int, host: str, since: float) -> bool:
    """Does the process that gave a sign at `since` (seconds) still live? Of another host: yes.

    A number that has since been given to a younger process, or to this one, is not it.
    """
    if host != socket.gethostname():
        return True
    if pid == os.getpid():
        return False
    try:
        process = psutil.Process(pid)
        young = process.create_time() > since + 1
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE and not young
    except psutil.NoSuchProcess:
        return False
