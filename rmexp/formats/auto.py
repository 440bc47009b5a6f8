"""Tell the format of a row from its columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmexp.comparisons import Comparison
from rmexp.formats.candidates import Candidates
from rmexp.formats.hh import HH
from rmexp.formats.preference import Preference
from rmexp.formats.single import Single
from rmexp.sources import BadRow


@dataclass(frozen=True)
class Auto:
    """Candidates, a single answer, the seed row, HH or a preference, whichever the columns say.

    `responses`: candidates; `response`, or `messages` alone: a single answer; `context`: the seed
    row; two HH dialogues; else a preference.
    """

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        """The comparison of a row in the format found; a row of no known format raises `BadRow`."""
        row = {name: value for name, value in row.items() if value is not None}
        if "responses" in row:
            return Candidates()(row)
        pair = "chosen" in row or "rejected" in row
        if not pair and ("response" in row or "messages" in row):
            return Single()(row)
        if not pair:
            have = ", ".join(map(str, row)) or "nothing"
            raise BadRow(
                f"no known format has the columns {have}; "
                "expected prompt, chosen, rejected; or prompt, responses, ratings; "
                "or prompt, response"
            )
        if "prompt" in row or "context" in row:
            return Preference()(row)
        chosen = row.get("chosen")
        if isinstance(chosen, str) and chosen.lstrip().startswith("Human:"):
            return HH()(row)
        return Preference()(row)
