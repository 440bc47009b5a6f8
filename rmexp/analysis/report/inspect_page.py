"""The page of an inspected data set (inspect.html), and its table for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from rmexp.analysis.report import plots
from rmexp.analysis.report.render import render_page
from rmexp.evaluation.metric_values import format_interval

TABLE_HEADS = (
    "comparisons",
    "shared by responses",
    "the longer wins",
    "rating and length",
    "agreement of people",
)
"""Figures shown as cards at the top of the page."""


def inspect_page(name: str, subtitle: str, facts: Mapping[str, Any]) -> str:
    """The page of `inspection.facts.describe`, with its warnings and examples."""
    lengths, bias, ratings = facts["lengths"], facts["length_bias"], facts["ratings"]
    drawn = plots.histogram(**lengths["histogram"], x="tokens with the prompt", y="responses")
    figures = [plots.Plot("lengths", "How long responses are, with their prompts", drawn)]
    if "gaps" in bias:
        drawn = plots.histogram(**bias["gaps"], x="tokens, better - worse", y="pairs")
        figures.append(plots.Plot("length-gaps", "How much longer the better response is", drawn))
    if ratings is not None and "values" in ratings:
        drawn = plots.bars(ratings["values"], "rating", "responses")
        figures.append(plots.Plot("ratings", "Ratings", drawn))
    elif ratings is not None:
        drawn = plots.histogram(**ratings["histogram"], x="rating", y="responses")
        figures.append(plots.Plot("ratings", "Ratings", drawn))
    return render_page(
        "inspect.html",
        name=name,
        subtitle=subtitle,
        heads=list(_heads(facts)),
        figures=plots.published(figures),
        measured=list(measured_sections(facts)),
        facts=facts,
        labels=_label_section(facts["labels"]) if "labels" in facts else None,
    )


def _label_section(labels: Mapping[str, Any]) -> dict[str, Any]:
    suspects = [{"cells": suspect_row(one)} | one for one in labels["examples"]]
    rows = list(share_rows(labels["shares"]))
    heads = {"share_heads": SHARE_HEADS, "suspect_heads": SUSPECT_HEADS}
    return {"said": labels["said"], "shares": rows, "suspects": suspects} | heads


def inspect_table(facts: Mapping[str, Any]) -> Table:
    """The figures of the page's first table, for the terminal."""
    found = Table("fact", "figure", "of", box=None, padding=(0, 2, 0, 0))
    for row in measured_sections(facts):
        found.add_row(*row)
    return found


SHARE_HEADS = ("subset", "pairs", "prompts", "models disagree", "confident learning")
SUSPECT_HEADS = ("P(wrong)", "log odds", "std", "subset", "split", "comparison", "pair", "place")
SUSPECTS_PRINTED = 10


def label_tables(labels: Mapping[str, Any]) -> Iterator[Table]:
    """The share of suspected labels by subset, and the first suspects, for the terminal."""
    shares = Table(*SHARE_HEADS, box=None, padding=(0, 2, 0, 0))
    for row in share_rows(labels["shares"]):
        shares.add_row(*row)
    yield shares
    if labels["examples"]:
        suspects = Table(*SUSPECT_HEADS, box=None, padding=(0, 2, 0, 0))
        for one in labels["examples"][:SUSPECTS_PRINTED]:
            suspects.add_row(*suspect_row(one))
        yield suspects


def share_rows(shares: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """The cells of `SHARE_HEADS` for each subset, with 95% intervals."""
    for found in shares:
        figures = (_figure(found, name) for name in ("against", "wrong"))
        yield found["subset"], str(found["pairs"]), str(found["prompts"]), *figures


def suspect_row(one: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of `SUSPECT_HEADS` for a label."""
    better, worse = (k + 1 for k in one["pair"])
    return (
        f"{one['wrong']:.3f}",
        f"{one['gap']:.2f}",
        "" if one["std"] is None else f"{one['std']:.2f}",
        one["subset"],
        one["split"] or "",
        one["id"],
        f"{better} > {worse}",
        _file(one["place"]),
    )


def _heads(facts: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The cards at the top; the intervals stand under their figures."""
    for label, value, note in measured_sections(facts):
        if label in TABLE_HEADS:
            figure, _, interval = value.partition(" ")
            yield {
                "label": label,
                "value": figure,
                "note": f"95%: {interval}" if interval else note,
            }


def measured_sections(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, figure (with its 95% interval), and what it is of."""
    splits = facts["splits"]
    per_split = ", ".join(f"{name} {s['comparisons']}" for name, s in splits.items())
    yield "comparisons", str(_total(facts, "comparisons")), per_split
    yield "rows left out", f"{facts['rows']['lost']:.2%}", f"{facts['rows']['read']} read"
    yield "prompts", str(_total(facts, "prompts")), f"{len(facts['subsets'])} subsets"
    for kind in ("pairs", "ties", "votes", "margins", "ratings", "lists"):
        # An order of two is a pair.
        paired = kind == "lists" and facts["lengths"]["responses"] <= 2 * _total(
            facts, "comparisons"
        )
        if not paired and (count := _total(facts, kind)):
            where = ", ".join(f"{name} {s[kind]}" for name, s in splits.items())
            yield kind, str(count), where
    yield from _of_lengths(facts["lengths"], facts["rows"]["over"])
    yield from _of_labels(facts)
    again, contrary = facts["duplicates"], facts["contradictions"]
    yield "repeated rows", str(again["rows"]), f"{again['share']:.2%} of all"
    if contrary["judged"]:
        share = f"{contrary['share']:.2%} of {contrary['judged']} labelled pairs"
        yield "contradictory labels", str(contrary["pairs"]), share
    for home, found in facts["near_duplicates"].items():
        where = "train" if home in ("val", "test") else "the data"
        yield (
            f"{_file(home)}: nearly in {where}",
            str(found["near"]),
            f"of {found['prompts']} prompts",
        )


def _of_lengths(lengths: Mapping[str, Any], over: float) -> Iterator[tuple[str, str, str]]:
    at = lengths["quantiles"]
    spread = f"5-95%: {at['5']:.0f} to {at['95']:.0f}, at most {at['100']:.0f}"
    yield "tokens, median", f"{at['50']:.0f}", spread
    limit = f"data.max_length={lengths['max_length']}"
    yield "longer than the limit", f"{over:.2%}", limit
    tokens = f"of {lengths['tokens']} tokens"
    yield "shared by responses", f"{lengths['shared_prefix']:.1%}", tokens


def _of_labels(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    bias, first, agreed = facts["length_bias"], facts["position"], facts["agreement"]
    if "longer_wins" in bias:
        yield "the longer wins", _figure(bias, "longer_wins"), f"of {bias['pairs']} pairs"
    if "spearman" in bias:
        rated = f"rank correlation, {bias['rated']} rated"
        yield "rating and length", _figure(bias, "spearman"), rated
    if first is not None:
        yield "the first one wins", _figure(first, "first_wins"), "as the rows have them"
    if agreed is not None:
        raters = f"Fleiss' kappa, {agreed['judgements']} by {agreed['raters']} people"
        yield "agreement of people", _figure(agreed, "kappa", ("low", "high")), raters
        yield "judged unanimously", f"{agreed['unanimous']:.1%}", "of those"


def _figure(found: Mapping[str, Any], name: str, bounds: Sequence[str] = ()) -> str:
    """`0.772 [0.741, 0.803]`, without bounds where there are none."""
    low, high = (found[key] for key in bounds or (f"{name}_low", f"{name}_high"))
    return format_interval(found[name], low, high, digits=3) or "undefined"


def _file(home: str) -> str:
    """A split as it is, an evaluation set without its folder."""
    return home.rsplit("/", 1)[-1]


def _total(facts: Mapping[str, Any], what: str) -> int:
    return sum(split[what] for split in facts["splits"].values())
