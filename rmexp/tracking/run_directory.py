"""The run directory: what a run was, what it measured, how it ended.

config.yaml overrides.yaml environment.json   what was asked for, where and with what
metrics.jsonl                                 a line a step or evaluation: the truth
predictions/SET.parquet judgements/           a row a response; a row a judged pair
result.json error.txt                         status, metrics, cost, fallbacks; the traceback
checkpoints/ export/ report.html plots/
"""

import contextlib
import datetime
import functools
import json
import os
import platform
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger

from rmexp import __version__
from rmexp.config.yaml_io import write_yaml
from rmexp.core.atomic_file import replace_file
from rmexp.core.errors import UserError
from rmexp.tracking.predictions import EvalSetTables, read_log, write_set

HEARTBEAT_SECONDS = 10


PACKAGES = ("torch", "transformers", "lightning", "hydra-core", "datasets", "wandb")


class RunDirectory:
    """One run's directory. `result.json` is always whole: it is written aside and renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes = path / "warnings.txt"
        self.result: dict[str, Any] = {}
        self._started = time.time()
        self._stop = threading.Event()
        self._lock = threading.Lock()

    @classmethod
    def claim(cls, path: Path) -> "RunDirectory":
        """Take a directory for a new run; where another run has it, one beside it with a number."""
        number, free = 1, path
        while True:
            free.mkdir(parents=True, exist_ok=True)
            try:
                with open(free / "result.json", "x") as stream:
                    json.dump(_alive(), stream)
                return cls(free)
            except FileExistsError:
                number += 1
                free = path.with_name(f"{path.name}-{number}")

    @classmethod
    def reopen(cls, path: Path) -> "RunDirectory":
        """Go on in a run's directory; its seconds count on."""
        run = cls(path)
        run.result = json.loads((path / "result.json").read_text())
        run._started -= run.result.get("seconds", 0.0)
        return run

    def start(self, config: Mapping[str, Any], overrides: list[str], **facts: Any) -> None:
        """Write what is known before the work begins, and keep a heartbeat until `finish`.

        A run that is resumed keeps the configuration that it was started with.
        """
        (self.path / "error.txt").unlink(missing_ok=True)
        if not (self.path / "config.yaml").is_file():
            write_yaml(config, self.path / "config.yaml")
            write_yaml(overrides, self.path / "overrides.yaml")
        self.update(**_alive(), error=None, **facts)
        threading.Thread(target=self._beat, daemon=True).start()

    def update(self, **facts: Any) -> None:
        """Set facts in `result.json`."""
        with self._lock:
            self.result |= facts | {
                "heartbeat": _now(),
                "seconds": round(time.time() - self._started, 1),
            }
            with replace_file(self.path / "result.json") as file:
                text = json.dumps(self.result, indent=2, ensure_ascii=False, default=str)
                file.write_text(text + "\n")

    def count_in(self, seconds: float) -> None:
        """Count work that was done for this run before it was claimed."""
        self._started -= seconds

    def finish(self, status: Literal["done", "failed"], **facts: Any) -> None:
        """The last word on the run."""
        self._stop.set()
        self.update(status=status, **facts)

    def fail(self, error: BaseException) -> None:
        """Record what went wrong; the traceback goes into `error.txt`."""
        (self.path / "error.txt").write_text("".join(traceback.format_exception(error)))
        self.finish("failed", error=first_line(error))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """A file of facts beside the others."""
        (self.path / name).write_text(
            json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
        )

    def write_predictions(
        self, name: str, set: EvalSetTables, rewards: Mapping[int, list[float]]
    ) -> Path:
        """`predictions/NAME.parquet` and `judgements/NAME.parquet`, see `predictions.write_set`."""
        return write_set(self.path, name, set, rewards)

    def cut_metrics(self, step: int) -> None:
        """Forget what was logged after `step`, and of test: a resumed run will log it again."""
        lines = [line for line in self.metrics() if line["step"] <= step]
        kept = [line for line in lines if not any(key.startswith("test/") for key in line)]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        (self.path / "metrics.jsonl").write_text(text)

    def metrics(self) -> list[dict[str, Any]]:
        """The whole lines of `metrics.jsonl`; a kill may have left a piece of one at its end."""
        return read_log(self.path)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # a full disk is said where the run meets it
                self.update()


class Listener(RunDirectory):
    """The run directory to a process that does not write: of several, rank 0 alone does."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.notes = Path(os.devnull)

    def start(self, config: Mapping[str, Any], overrides: list[str], **facts: Any) -> None:
        """Rank 0 writes it down."""

    def update(self, **facts: Any) -> None:
        """Know it."""
        self.result |= facts

    def fail(self, error: BaseException) -> None:
        """The launcher hears of it."""

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Rank 0 does."""

    def write_predictions(
        self, name: str, set: EvalSetTables, rewards: Mapping[int, list[float]]
    ) -> Path:
        """Rank 0 does."""
        return self.path

    def cut_metrics(self, step: int) -> None:
        """Rank 0 does."""


class JsonLines(Logger):
    """Lightning's view of `metrics.jsonl`: step, and every value logged at it. No clock in it, so
    that equal runs write equal files."""

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self.file = run.path / "metrics.jsonl"

    @property
    def name(self) -> str:
        """The logger's name."""
        return "rmexp"

    @property
    def version(self) -> str:
        """Runs are told apart by their directory."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a line."""
        with open(self.file, "a") as stream:
            stream.write(json.dumps({"step": int(step or 0), **metrics}) + "\n")

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The configuration is in config.yaml."""


@dataclass(frozen=True)
class NoLogger:
    """logger=none: the run directory alone."""

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to start."""

    def finish(self, exit_code: int) -> None:
        """Nothing to close."""


def describe_environment(**facts: Any) -> dict[str, Any]:
    """Where a run ran: commit, versions, machine, and the facts given."""
    return {
        "rmexp": __version__,
        **_git(),
        "python": sys.version.split()[0],
        "packages": _versions(),
        "machine": {
            "host": socket.gethostname(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
        },
        "command": sys.argv,
        **facts,
    }


@functools.cache
def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in PACKAGES}


@functools.cache
def _git() -> dict[str, Any]:
    """Commit and dirty flag of the code as this process began, where it lies in a checkout."""
    here = Path(__file__).parent

    def ask(*words: str) -> str | None:
        answer = subprocess.run(
            ["git", "-C", here, *words], capture_output=True, text=True, check=False
        )
        return answer.stdout.strip() if answer.returncode == 0 else None

    try:
        tracked = ask("ls-files", "--error-unmatch", "__init__.py") is not None
        return {
            "git_commit": ask("rev-parse", "HEAD") if tracked else None,
            "git_dirty": bool(ask("status", "--porcelain", "-uno")) if tracked else None,
        }
    except FileNotFoundError:
        return {"git_commit": None, "git_dirty": None}


def first_line(error: BaseException) -> str:
    """An error in one line: the sentence of a `UserError`, else with its type in front."""
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return (
        str(error)
        if isinstance(error, UserError)
        else f"{type(error).__name__}: {text}".rstrip(": ")
    )


def _alive() -> dict[str, Any]:
    return {"status": "running", "pid": os.getpid(), "host": socket.gethostname()}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
