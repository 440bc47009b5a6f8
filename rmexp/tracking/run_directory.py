"""The run directory: what a run was, what it measured, how it ended.

config.yaml overrides.yaml environment.json   configuration, command line, code and machine
metrics.jsonl                                 one line per step or evaluation: the truth
predictions/SET.parquet judgements/           one row per response; one row per labelled pair
result.json error.txt                         status, metrics, cost, fallbacks; the traceback
checkpoints/ export/ report.html plots/
"""

import datetime
import json
import os
import socket
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger

from rmexp.config.yaml_io import write_yaml
from rmexp.core.atomic_file import replace_file
from rmexp.core.disk_errors import raise_unwritable
from rmexp.core.errors import UserError
from rmexp.evaluation.scored_set import HeadOutputs
from rmexp.tracking.predictions import EvalSetTables, read_log, write_set

HEARTBEAT_SECONDS = 10


class RunDirectory:
    """One run's directory.

    Args:
        path: the directory.
        writes: False in processes other than rank 0, which only keep `result` in memory.

    Attributes:
        result: content of `result.json`.
        resumed_step: the step that a resumed run continues after; None: it began here.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path = path
        self.writes = writes
        self.notes = path / "warnings.txt" if writes else Path(os.devnull)
        self.result: dict[str, Any] = {}
        self.resumed_step: int | None = None
        self._started = time.time()
        self._stop = threading.Event()
        self._lock = threading.Lock()

    @classmethod
    def claim(cls, path: Path) -> "RunDirectory":
        """Take a directory for a new run; if another run has it, append a number to the name."""
        number, free = 1, path
        while True:
            with raise_unwritable(path, "work elsewhere, or give hydra.run.dir=DIRECTORY"):
                free.mkdir(parents=True, exist_ok=True)
                with (
                    suppress(FileExistsError),
                    open(free / "result.json", "x", encoding="utf-8") as stream,
                ):
                    json.dump(_alive(), stream)
                    return cls(free)
            number += 1
            free = path.with_name(f"{path.name}-{number}")

    @classmethod
    def reopen(cls, path: Path) -> "RunDirectory":
        """Continue an existing run; its seconds accumulate."""
        run = cls(path)
        run.result = json.loads((path / "result.json").read_bytes())
        run._started -= run.result.get("seconds", 0.0)
        return run

    def start(self, config: Mapping[str, Any], overrides: list[str], **facts: Any) -> None:
        """Write configuration and facts, and keep a heartbeat until `finish`.

        A resumed run keeps the configuration that it was started with.
        """
        if not self.writes:
            return
        (self.path / "error.txt").unlink(missing_ok=True)
        if not (self.path / "config.yaml").is_file():
            write_yaml(config, self.path / "config.yaml")
            write_yaml(overrides, self.path / "overrides.yaml")
        self.update(**_alive(), error=None, **facts)
        threading.Thread(target=self._beat, daemon=True).start()

    def update(self, **facts: Any) -> None:
        """Set facts in `result.json`."""
        with self._lock:
            self.result |= facts
            if self.writes:
                self.result["heartbeat"] = _now()
                self.result["seconds"] = round(time.time() - self._started, 1)
                self.write_json("result.json", self.result)

    def count_in(self, seconds: float) -> None:
        """Add time spent on this run before it was claimed."""
        self._started -= seconds

    def finish(self, status: Literal["done", "failed"], **facts: Any) -> None:
        """Write the final status and stop the heartbeat."""
        self._stop.set()
        self.update(status=status, **facts)

    def fail(self, error: BaseException) -> None:
        """Record an error; the traceback goes to `error.txt`."""
        if self.writes:
            trace = "".join(traceback.format_exception(error))
            (self.path / "error.txt").write_text(trace, "utf-8", errors="backslashreplace")
            self.finish("failed", error=first_line(error))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file."""
        if self.writes:
            with replace_file(self.path / name) as temporary:
                text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
                # A lone surrogate becomes a JSON escape.
                temporary.write_text(f"{text}\n", "utf-8", errors="backslashreplace")

    def write_predictions(
        self,
        name: str,
        set: EvalSetTables,
        rewards: Mapping[int, list[float]],
        outputs: HeadOutputs | None = None,
    ) -> None:
        """Write `predictions/NAME.parquet` and `judgements/NAME.parquet`, see `write_set`."""
        if self.writes:
            write_set(self.path, name, set, rewards, outputs)

    def cut_metrics(self, step: int) -> None:
        """Remove what was logged after `step`, and test metrics: a resumed run logs them again."""
        self.resumed_step = step
        if self.writes:
            lines = [line for line in self.metrics() if line["step"] <= step]
            kept = [line for line in lines if not any(key.startswith("test/") for key in line)]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            with replace_file(self.path / "metrics.jsonl") as temporary:
                temporary.write_text(text, encoding="utf-8")

    def metrics(self) -> list[dict[str, Any]]:
        """The complete lines of `metrics.jsonl`."""
        return read_log(self.path)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a full disk is reported where the run meets it
                self.update()


class JsonLines(Logger):
    """Lightning logger of `metrics.jsonl`: the step and every value logged at it.

    It writes no times, so that equal runs write equal files.
    """

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self.file = run.path / "metrics.jsonl"

    @property
    def name(self) -> str:
        """The logger's name."""
        return "rmexp"

    @property
    def version(self) -> str:
        """Empty: the directory identifies the run."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a line."""
        with open(self.file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": int(step or 0), **metrics}) + "\n")

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The configuration is in config.yaml."""


def first_line(error: BaseException) -> str:
    """An error in one line: the sentence of a `UserError`; others with their type first."""
    if isinstance(error, UserError):
        return str(error)
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}".rstrip(": ")


def _alive() -> dict[str, Any]:
    return {"status": "running", "pid": os.getpid(), "host": socket.gethostname()}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
