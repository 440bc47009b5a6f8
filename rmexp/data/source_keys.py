"""The keys of a source of rows, where it is not `data` itself."""

import re

SOURCE_KEYS = (
    *("path", "fields", "format", "ignore_images", "encoding", "split_names", "limit"),
    *("on_bad_row", "max_bad_share", "min_rating_gap", "template", "system"),
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
