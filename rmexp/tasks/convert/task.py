"""task=convert: an experiment file of rmexp out of TRL's or Axolotl's settings."""

import os
import re
import shlex
from pathlib import Path

from rmexp.config.schema import CONF_DIR
from rmexp.core.console import Reporter
from rmexp.core.errors import UserError
from rmexp.tasks.convert.yaml_text import convert_text, listed


def convert(source: str, out: str, reporter: Reporter) -> dict[str, float]:
    """Write `out`, and say what the source has that rmexp has not, and the command that runs it.

    Args:
        source: a YAML of Axolotl (with `reward_model`) or of `trl reward --config`.
        out: the file to write, NAME.yaml; it must not exist.

    Raises:
        UserError: the source is not there or cannot be converted, or `out` cannot be written.
    """
    home = check_output(out)
    found = convert_text(read(source), source, command_for(home))
    home.parent.mkdir(parents=True, exist_ok=True)
    aside = home.with_name(f".{home.name}")
    aside.write_text(found.text, encoding="utf-8")
    os.replace(aside, home)
    reporter.say(*listed(found.left), *found.notes, f"written: {home}")
    if home.resolve().parent.name != "experiment":
        reporter.say(f"to run it: mkdir -p experiment && mv {shlex.quote(str(home))} experiment/")
    reporter.say(f"run it:  {found.command}")
    return {}


def read(source: str) -> str:
    """The text of the source.

    Raises:
        UserError: there is none.
    """
    file = Path(source).expanduser()
    if not file.is_file():
        raise UserError(f"source={source}: there is no such file.")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"source={source}: not UTF-8 (byte {error.start}).") from None


def check_output(out: str) -> Path:
    """The file to write, as Hydra will find it.

    Raises:
        UserError: it exists, or Hydra would not find it.
    """
    home = Path(out).expanduser()
    if not re.fullmatch(r"[A-Za-z0-9._-]+\.yaml", home.name):
        raise UserError(f"out={out}: name a file NAME.yaml, with no other signs than . _ - in it.")
    if home.exists():
        raise UserError(f"out={out}: that exists; name another file.")
    return home


def command_for(home: Path) -> str:
    """Runs the experiment from here; a file elsewhere is to be moved into `experiment` first."""
    folder = home.parent
    if folder.resolve() == (CONF_DIR / "experiment").resolve():
        where = ""
    else:
        parent = folder.resolve().parent if folder.resolve().name == "experiment" else Path()
        near = parent if home.is_absolute() else os.path.relpath(parent)
        where = f"--config-dir {shlex.quote(str(near))} "
    return f"python -m rmexp {where}+experiment={home.stem}"
