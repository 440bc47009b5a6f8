"""task=convert: read the source, write the experiment file, report what was not converted."""

import os
import re
import shlex
from pathlib import Path

from rmexp.config.schema import CONF_DIR
from rmexp.core.atomic_file import replace_file
from rmexp.core.console import Reporter
from rmexp.core.disk_errors import check_writable
from rmexp.core.errors import UserError
from rmexp.tasks.convert.experiment import convert_settings, experiment_text, report


def convert(source: str, out: str, reporter: Reporter) -> dict[str, float]:
    """Convert a configuration of another framework to an experiment file.

    Args:
        source: a YAML file of Axolotl (with `reward_model`) or of `trl reward --config`.
        out: the file to write, NAME.yaml; it must not exist.
        reporter: prints what was not converted, and the command that runs the file.
    """
    target = Path(out).expanduser()
    if not re.fullmatch(r"[A-Za-z0-9._-]+\.yaml", target.name):
        raise UserError(f"out={out}: name a file NAME.yaml, of letters, digits and . _ - only.")
    if target.exists():
        raise UserError(f"out={out}: that exists; name another file.")
    try:
        text = Path(source).expanduser().read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"source={source}: there is no such file.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"source={source}: not UTF-8 (byte {error.start}).") from None
    settings = convert_settings(text, source)
    command = _command(target) + ("" if "data" in settings.lines else " data=jsonl data.path=FILE")
    check_writable(target.parent, "name another out=FILE")
    with replace_file(target) as file:
        file.write_text(experiment_text(settings, command), encoding="utf-8")
    reporter.say(*report(settings), f"written: {target}")
    if target.resolve().parent.name != "experiment":
        reporter.say(f"to run it: mkdir -p experiment && mv {shlex.quote(str(target))} experiment/")
    reporter.say(f"run it:  {command}")
    return {}


def _command(target: Path) -> str:
    """The command that runs the file; one outside a folder `experiment` is to be moved first."""
    folder = target.parent.resolve()
    if folder == (CONF_DIR / "experiment").resolve():
        return f"python -m rmexp +experiment={target.stem}"
    parent = folder.parent if folder.name == "experiment" else Path.cwd()
    near = str(parent) if target.is_absolute() else os.path.relpath(parent)
    return f"python -m rmexp --config-dir {shlex.quote(near)} +experiment={target.stem}"
