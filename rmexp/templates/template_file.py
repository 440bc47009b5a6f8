"""Template files: Jinja, or the JSON of a tokenizer, in UTF-8 or with a byte order mark."""

import codecs
import json
from pathlib import Path
from typing import Any

from rmexp.core.errors import UserError

TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
"""Where the folder of a tokenizer may have its template."""


def read_template(path: str) -> str:
    """The Jinja source in a file, or in the folder of a tokenizer.

    Raises:
        UserError: there is no such file, no template in it, or it is not text in UTF-8.
    """
    where, file = f"template.path={path}", Path(path).expanduser()
    if file.is_dir():
        inside = [file / name for name in TEMPLATE_FILES if (file / name).is_file()]
        if not inside:
            raise UserError(f"{where} is a folder without any of {', '.join(TEMPLATE_FILES)}.")
        file = inside[0]
    if not file.is_file():
        raise UserError(f"{where}: there is no such file.")
    text = _decoded(file.read_bytes(), where)
    source = _from_json(text, where) if file.suffix == ".json" or _is_json(text) else text
    if not source.strip():
        raise UserError(f"{where} is empty.")
    return source


def default_template(templates: Any, where: str) -> str | None:
    """The template to use, of a tokenizer's `chat_template`: one, several by name, or none.

    Raises:
        UserError: there are several, and none is called default.
    """
    if isinstance(templates, list):  # as tokenizer_config.json has several
        templates = {one["name"]: one["template"] for one in templates}
    if isinstance(templates, dict):
        if len(templates) != 1 and "default" not in templates:
            raise UserError(
                f"{where} has several chat templates and no default: write one of "
                f"{', '.join(sorted(templates))} to a file and give template=jinja "
                "template.path=FILE."
            )
        templates = templates.get("default") or next(iter(templates.values()))
    return templates if isinstance(templates, str) else None


def _decoded(content: bytes, where: str) -> str:
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{where}, line {line}: byte {content[error.start]:#x} is not UTF-8; save the file as "
            "UTF-8 (iconv -f ENCODING -t UTF-8)."
        ) from None


def _is_json(text: str) -> bool:
    """Whether it is a JSON object, which no Jinja source is (it would begin with {{, {% or {#)."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _from_json(text: str, where: str) -> str:
    try:
        content = json.loads(text)
        found = content["chat_template"] if isinstance(content, dict) else content
        source = default_template(found, where)
    except (ValueError, KeyError, TypeError, RecursionError):
        source = None
    if source is None:
        raise UserError(f'{where}: this JSON has no text under "chat_template".')
    return source
