"""How a run ends: done, failed, interrupted, or for want of disk space."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rmexp.core import distributed
from rmexp.core.console import Reporter
from rmexp.core.disk_errors import raise_disk_full
from rmexp.core.errors import DiskFull, PeerProcessLost, UserError
from rmexp.tracking.run_directory import RunDirectory, first_line


@contextmanager
def record_outcome(run: RunDirectory, reporter: Reporter, again: str | None) -> Iterator[None]:
    """Record in the run directory what ends the block, if it is an error.

    Args:
        again: the command that can continue it; None: a job, which its sweep continues.

    Raises:
        KeyboardInterrupt: on Ctrl-C or SIGTERM.
        DiskFull: nothing more can be written.
        Exception: any other, with the path of its traceback as a note.
    """
    try:
        with raise_disk_full(run.path):
            yield
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        run.finish("failed", error="interrupted", interrupted=True)
        if again and (run.path / "checkpoints" / "last.ckpt").is_file():
            reporter.say(f"interrupted; resume with: {again}")
        raise KeyboardInterrupt from None
    except DiskFull as error:
        with contextlib.suppress(OSError):  # as far as the disk permits
            run.finish("failed", error=str(error), interrupted=True)
            (run.path / "error.txt").write_text(f"{error}\n", encoding="utf-8")
        raise
    except Exception as error:
        if distributed.is_peer_loss(error):
            lost = PeerProcessLost(
                "Another process of this run ended, and reports the reason itself, or the "
                f"communication with it failed: {first_line(error)}"
            )
            lost.__cause__ = error  # for the traceback in error.txt
            run.fail(lost)
            raise lost from error
        run.fail(error)
        if not isinstance(error, UserError):
            error.add_note(f"{TRACEBACK_NOTE}{run.path}/error.txt")
        raise


TRACEBACK_NOTE = "traceback: "


def describe_failure(error: Exception) -> str:
    """An error in one line, with the path of its traceback."""
    notes = getattr(error, "__notes__", ())
    return first_line(error) + "".join(f" ({n})" for n in notes if n.startswith(TRACEBACK_NOTE))


@contextmanager
def library_warnings(file: Path) -> Iterator[None]:
    """Write Python warnings to a file of the run, so that they do not clutter the terminal."""
    before = warnings.showwarning

    def note(message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        with open(file, "a", encoding="utf-8") as stream:
            stream.write(warnings.formatwarning(message, category, filename, lineno))

    warnings.showwarning = note  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = before


def quieten_libraries() -> None:
    """Turn off progress bars and notes of libraries, which would break up ours."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
