"""Status of a run, read from its directory: done, running, dead, failed or not started."""

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
"""A run without a heartbeat for this long is considered dead."""

Status = Literal["done", "running", "dead", "interrupted", "failed", "broken", "pending"]


@dataclass(frozen=True)
class State:
    """A run's status and its `result.json`.

    done         finished
    running      a live process works on it
    dead         marked as running, but its process is gone or has no heartbeat
    interrupted  stopped by Ctrl-C or by a full disk
    failed       ended by an error
    broken       its result.json is incomplete
    left         not started
    """

    status: Status
    path: Path
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def resumable(self) -> bool:
        """Whether it can resume from a checkpoint. A failed run cannot: it would fail again."""
        started = "task" in self.result and (self.path / "config.yaml").is_file()
        last = self.path / "checkpoints" / "last.ckpt"
        return self.status in ("dead", "interrupted") and started and last.is_file()


def read_state(home: Path) -> State:
    """Read the state of a run directory, which need not exist."""
    file = home / "result.json"
    try:
        result = json.loads(file.read_bytes())
        status = result["status"]
    except FileNotFoundError:
        return State("pending", home)
    except (ValueError, KeyError, TypeError):
        return State("broken", home)
    if status == "running":
        return State("running" if _is_alive(result, file) else "dead", home, result)
    if status == "failed" and result.get("interrupted"):
        return State("interrupted", home, result)
    return State(status, home, result)


def known_state(home: Path) -> State:
    """Read the state of a run that is to be resumed.

    Its process may have died a moment ago: wait until the next heartbeat, or until the run is
    considered dead.
    """
    state = read_state(home)
    last = state.result.get("heartbeat")
    while state.status == "running" and state.result.get("heartbeat") == last:
        time.sleep(0.2)
        state = read_state(home)
    return state


def _is_alive(result: Mapping[str, Any], file: Path) -> bool:
    beat = result.get("heartbeat")
    seen = file.stat().st_mtime if beat is None else datetime.fromisoformat(beat).timestamp()
    return time.time() - seen <= STALE_SECONDS and lives(result["pid"], result["host"], seen)


def lives(pid: int, host: str, since: float) -> bool:
    """Whether a process seen at `since` (Unix time) is alive; on another host: assumed.

    A process ID that now belongs to a younger process, or to this one, was reused.
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
