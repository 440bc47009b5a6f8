"""Why the layout of a row is not recognised, and what the user can say."""

from collections.abc import Mapping

from rmexp.data.formats.layouts import BY_NAME
from rmexp.data.formats.usual_names import NOUNS, PAIR, PROMPT, TWO


def why_not(
    there: Mapping[str, tuple[str, str]], fixed: Mapping[str, str | None], only: str | None
) -> str:
    """Why no layout is recognised; what varies between rows is in parentheses."""
    columns = [column for key, (column, _) in there.items() if not key.startswith("=")]
    have = f"(the row has {', '.join(columns) or 'nothing'})"
    if only is not None:
        needs = BY_NAME[only].needs
        lacking = [need.fields for need in needs if not need.find(there, fixed)[1]]
        names = [name for fields in lacking or [need.fields for need in needs] for name in fields]
        return (
            f"data.format={only} needs columns of their own for {', '.join(names)}: name them as "
            f"{' '.join(f'data.fields.{name}=COLUMN' for name in names)} {have}"
        )
    asked = (there.get(name, ("", "")) for tier in PROMPT.names for (name,) in tier)
    if within := next((column for column, kind in asked if kind == "object"), None):
        return (
            f"{within} is an object: name the text in it, e.g. data.fields.prompt={within}.text, "
            f"and the columns of the answers as data.fields.chosen=COLUMN or the like {have}"
        )
    if pair := PAIR.find(there, fixed)[1]:
        return (
            f"there is no prompt: {' and '.join(pair[0])} are answers alone; name its column as "
            f"data.fields.prompt=COLUMN, or say data.format=shared_beginning where both answers "
            f"begin with it {have}"
        )
    if two := TWO.find(there, fixed)[1]:
        field = "votes" if PROMPT.find(there, fixed)[1] else "prompt"
        what = "which is better" if field == "votes" else "the prompt"
        return (
            f"{' and '.join(two[0])} are two answers, and no column is known as {what}; name it as "
            f"data.fields.{field}=COLUMN {have}"
        )
    if off := [name for name in PAIR.fields if fixed.get(name, "") is None]:
        return f"field {off[0]!r} is missing: data.fields.{off[0]}=null switches it off {have}"
    for good, bad in (pair for tier in PAIR.names for pair in tier if pair[0] not in NOUNS):
        if good in there and bad in there:
            kinds = f"{there[good][1]} and {there[bad][1]}"
            fix = f"; name the text in it, e.g. data.fields.chosen={good}.text"
            more = fix if "object" in kinds else ""
            return f"{good} and {bad} should be text or messages, and are {kinds}{more} {have}"
        if good in there or bad in there:
            return f"field {bad if good in there else good!r} is missing {have}"
    return (
        "no layout has these columns; name them as data.fields.prompt=COLUMN "
        f"data.fields.chosen=COLUMN data.fields.rejected=COLUMN {have}"
    )
