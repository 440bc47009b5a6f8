"""The facts of a data set as one JSON object, and warnings."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rmexp.analysis.inspect import duplicates, length_and_labels
from rmexp.analysis.inspect.agreement import agreement
from rmexp.analysis.inspect.leakage import Overlap
from rmexp.analysis.inspect.rows import RowFacts
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.odd_labels import odd_labels
from rmexp.data.row_report import RowReport

# Warn above these values.
LENGTH_ALONE = 0.65  # accuracy of length alone
LOST_ROWS = REPEATED = CONTRADICTED = 0.01
IMBALANCE = 10
# Warn up to this kappa, which Landis and Koch 1977 call slight.
LOW_AGREEMENT = 0.2


def describe_data(
    data: ComparisonData, rows: Sequence[RowFacts], overlaps: Mapping[str, Overlap]
) -> dict[str, Any]:
    """The content of `inspect.json` but warnings and examples.

    Args:
        data: prepared.
        rows: the rows of its splits, at least one.
        overlaps: of its splits and of evaluation sets.
    """
    subsets, languages = length_and_labels.tally(rows)
    votes = [(vote, row.prompt) for row in rows for vote in row.votes]
    agreed = agreement([vote for vote, _ in votes], [prompt for _, prompt in votes])
    return {
        "rows": read_data(data.report, len(rows), data.source.max_length),
        "splits": splits(data, rows),
        "subsets": subsets,
        "languages": languages,
        "lengths": {"max_length": data.source.max_length} | length_and_labels.lengths(rows),
        "odd_labels": list(odd_labels(data.columns)),
        "ratings": length_and_labels.ratings(rows),
        "position": length_and_labels.position(rows),
        "length_bias": length_and_labels.length_bias(rows),
        "agreement": dataclasses.asdict(agreed) if agreed else None,
        "duplicates": duplicates.duplicates(rows),
        "contradictions": duplicates.contradictions(rows),
        "near_duplicates": {home: dataclasses.asdict(found) for home, found in overlaps.items()},
    }


def read_data(report: RowReport, kept: int, max_length: int) -> dict[str, Any]:
    """How many rows are used, and why others are not.

    Args:
        report: of reading and splitting.
        kept: number of comparisons in a split; all others are bad or dropped.
        max_length: longer comparisons are dropped or cut.

    Returns:
        The report, the share `lost` with its `reasons`, and the share `over` the length.
    """
    reasons = Counter(report.bad)
    for cause, subsets in report.dropped.items():
        reasons[cause] += subsets.total()
    over = sum(
        subsets.total()
        for causes in (report.dropped, report.cut)
        for cause, subsets in causes.items()
        if cause.endswith(f"{max_length} tokens")
    )
    everything = kept + reasons.total()
    return report.to_dict() | {
        "lost": reasons.total() / everything,
        "reasons": dict(reasons.most_common()),
        "over": over / everything,
    }


def splits(data: ComparisonData, rows: Sequence[RowFacts]) -> dict[str, dict[str, int]]:
    """Split -> numbers of comparisons, of prompts, and of judgements by kind."""
    prompts = {name: {row.prompt for row in rows if row.split == name} for name in data.splits}
    return {
        name: {"comparisons": len(chosen), "prompts": len(prompts[name])} | data.counts(name)
        for name, chosen in data.splits.items()
    }


def warnings(facts: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on what to look at before training."""
    yield from _about_rows(facts)
    yield from _about_labels(facts)
    for home, found in facts["near_duplicates"].items():
        if found["near"]:
            where = "the training prompts" if home in ("val", "test") else "the data"
            yield (
                f"{found['near']} of {found['prompts']} prompts of {home} have a near-duplicate "
                f"among {where}: results on them will look better than they are."
            )


def _about_rows(facts: Mapping[str, Any]) -> Iterator[str]:
    lost, again, contrary = facts["rows"]["lost"], facts["duplicates"], facts["contradictions"]
    if lost > LOST_ROWS:
        reason, count = next(iter(facts["rows"]["reasons"].items()))
        yield f"{lost:.1%} of the rows are left out, most of them ({count}) as: {reason}."
    if again["share"] > REPEATED:
        yield f"{again['rows']} rows ({again['share']:.1%}) repeat an earlier row."
    if contrary["share"] > CONTRADICTED:
        yield (
            f"{contrary['pairs']} of {contrary['judged']} labelled pairs ({contrary['share']:.1%}) "
            "have contradictory labels: no model can be right on both."
        )


def _about_labels(facts: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{sentence}." for sentence in facts["odd_labels"])
    bias, agreed = facts["length_bias"], facts["agreement"]
    share = bias.get("longer_wins", 0.5)
    if max(share, 1 - share) > LENGTH_ALONE:
        which = "longer" if share > 0.5 else "shorter"
        yield (
            f"Length alone explains {max(share, 1 - share):.1%} of the pairs (the {which} response "
            "wins): a model may learn to measure it, and should be judged against that figure."
        )
    for what, counts in (
        ("rating", (facts["ratings"] or {}).get("values", {})),
        ("language", facts["languages"]),
    ):
        most, least = (pick(counts, key=counts.get, default=None) for pick in (max, min))
        if most is not None and counts[most] > IMBALANCE * counts[least]:
            key = "label" if what == "rating" else what
            yield (
                f"The {what} {most} comes {counts[most] / counts[least]:.0f} times as often as "
                f"{least} (data.balance={key} draws them equally often)."
            )
    if agreed is not None and agreed["kappa"] <= LOW_AGREEMENT:
        yield (
            f"The people who judged hardly agree (Fleiss' kappa {agreed['kappa']:.2f}): no model "
            "can be much better than they are."
        )
