"""The format of a row by its columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmexp.comparison import Comparison
from rmexp.data.formats.candidates import Candidates
from rmexp.data.formats.hh import HH
from rmexp.data.formats.ms_swift import MsSwift
from rmexp.data.formats.preference import Preference
from rmexp.data.formats.single_response import SingleResponse
from rmexp.data.formats.stepwise import Stepwise
from rmexp.data.sources import BadRow


@dataclass(frozen=True)
class Auto:
    """Chooses a format by the columns of each row.

    `responses`: candidates; `completions` and `labels`: steps; `messages` with `rejected_response`
    or `rejected_messages`: ms-swift; `response` or `completion`, or `messages` alone: a single
    answer; `context`: the seed row; two HH dialogues; else a preference.
    """

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        row = {name: value for name, value in row.items() if value is not None}
        if "responses" in row:
            return Candidates()(row)
        if "completions" in row and "labels" in row:
            return Stepwise()(row)
        if "messages" in row and ("rejected_response" in row or "rejected_messages" in row):
            return MsSwift()(row)
        pair = "chosen" in row or "rejected" in row
        if not pair and {"response", "completion", "messages"} & set(row):
            return SingleResponse()(row)
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
