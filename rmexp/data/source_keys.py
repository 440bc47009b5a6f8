"""The keys of a source of rows, where it is not `data` itself."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from rmexp.core.errors import UserError

SOURCE_KEYS = (
    *("path", "val_path", "test_path", "fields", "format", "ignore_images", "encoding"),
    *("split_names", "limit", "on_bad_row", "max_bad_share", "min_rating_gap", "template"),
    "system",
)
"""Keys of `data` that each source of a mixture has; `max_length` and others are the mixture's."""

EVAL_KEYS = {"fields": "+{}.format.fields", "format": "+{}.format.layout"}
"""Keys that an evaluation set has under another name."""

_KEY = re.compile(rf"(?<![\w/.@])data\.({'|'.join(SOURCE_KEYS)})\b(?![\w/-])")


def own_keys(text: str, group: str) -> str:
    """A message with the keys of a source in place of those of `data`.

    Args:
        text: names keys as `data.KEY`.
        group: what the user types before the source's keys: `data.sources.hh`, `eval`.
    """

    def own(found: re.Match[str]) -> str:
        name = EVAL_KEYS.get(found[1]) if group.startswith("eval") else None
        return f"{group}.{found[1]}" if name is None else name.format(group)

    return _KEY.sub(own, text)


def path_key(split: str | None, splits: Collection[str | None]) -> str:
    """The key that names the path of a split, of a source with these splits."""
    own = split in ("val", "test") and len(splits) > 1
    return f"data.{split}_path" if own else "data.path"


@contextmanager
def path_named(key: str | None) -> Iterator[None]:
    """Let errors name a path as `key`, where they say `data.path`; None: by no key."""
    try:
        yield
    except UserError as error:
        text = str(error).replace("data.path=", "" if key is None else f"{key}=")
        if text == str(error):
            raise
        raise UserError(text) from error.__cause__
