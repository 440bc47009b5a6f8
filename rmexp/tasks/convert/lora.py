"""LoRA, which both peers have from peft, in rmexp's terms."""

import re
from collections.abc import Sequence

from rmexp.tasks.convert.settings import Row, Settings

HEADS = {"score", "classifier"}


KEYS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_linear")


REGEX = "a regular expression: give tune.target_modules as a list of names"


def convert_lora(s: Settings, on: str | None, switch: str, rows: Sequence[Row]) -> None:
    """Choose `tune=lora` where the source trains so.

    Args:
        s: the settings.
        on: how the source says so, for the comment; None where it trains every weight.
        switch: the peer's key, and the value, that turn it on.
        rows: rank, alpha and dropout, with the peer's defaults.
    """
    if on is None:
        for key in (key for key in KEYS if s.values.get(key)):
            s.leave(key, f"{s.peer} reads it only with {switch}")
        return
    s.choose("tune", "lora", on)
    s.take_rows(rows)
    for row in rows:
        if row.ours not in s.lines:
            s.leave(row.key, f"the source has none, and {s.peer} no default: give {row.ours}")
    _targets(s)
    saved = set(s.take("lora_modules_to_save", list[str], [])) - HEADS
    if saved:
        names = ", ".join(sorted(saved))
        s.leave("lora_modules_to_save", f"{names}: beside LoRA's matrices the head alone trains")
    if s.lines.get("tune.dropout", (0, ""))[0]:
        s.notes.append("tune.dropout above 0 pads the rows; with 0 prompts are computed once.")


def _targets(s: Settings) -> None:
    """Names of layers, `all-linear`, or (TRL's default) peft's choice for the family."""
    linear = s.take("lora_target_linear", bool, False)
    given = s.take("lora_target_modules", str | list[str], [])
    names = [given] if isinstance(given, str) else given
    if linear:
        s.put("tune.target_modules", "all-linear", "lora_target_linear")
    elif names == ["all-linear"]:
        s.put("tune.target_modules", "all-linear", "lora_target_modules")
    elif not all(re.fullmatch(r"[\w.]+", name) for name in names):
        s.leave("lora_target_modules", REGEX)
    elif names:
        s.put("tune.target_modules", names, "lora_target_modules")
    elif s.peer == "TRL":
        s.put("tune.target_modules", None, f"{s.by_default('lora_target_modules')}: peft's choice")
    else:
        s.leave(
            "lora_target_modules",
            f"the source has none, and {s.peer} no default: all-linear is taken",
        )
