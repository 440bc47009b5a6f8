"""task=inspect: look at a data set before training on it; no model is loaded."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from rmexp.data import ComparisonData
from rmexp.inspection.examples import rendered
from rmexp.inspection.facts import describe, warnings
from rmexp.inspection.leakage import overlaps
from rmexp.inspection.prompts import Prompt, read_prompts
from rmexp.inspection.rows import gather
from rmexp.mixture import Mixture
from rmexp.progress import Reporter
from rmexp.report import inspected
from rmexp.tasks.setup import prepare_data
from rmexp.templates import Template
from rmexp.tracking import RunDirectory


def inspect(
    model: Any,
    template: Template,
    data: ComparisonData,
    run: RunDirectory,
    reporter: Reporter,
    seed: int,
    labels: Mapping[str, str],
    against: list[str],
) -> dict[str, float]:
    """Write `inspect.json` and `inspect.html`, and print their figures and warnings.

    Args:
        model: for its tokenizer.
        data: rows that cannot be used are shown, whatever `data.on_bad_row` says.
        labels: the options chosen, for the title.
        against: evaluation sets whose prompts should not be in the data.

    Raises:
        UserError: nothing is left of the data, or an evaluation set cannot be read.
    """
    others: list[Prompt] = []
    for path in against:
        found, report = read_prompts(path)
        others += found
        reporter.say(f"against {path}: {len(found)} prompts", *report.lines()[1:])
    _let_bad_rows_pass(data)
    prepare_data(model, template, data, seed, run, reporter)
    rows, prompts = gather(data, reporter.count)
    facts = describe(data, rows, overlaps(prompts, others, reporter.count))
    facts["warnings"] = list(warnings(facts))
    facts["examples"] = rendered(data, rows, list(facts["subsets"]))
    run.write_json("inspect.json", facts)
    page = run.path / "inspect.html"
    title = f"data={labels['data']}"
    page.write_text(inspected.page(title, ", ".join(data.paths), facts), encoding="utf-8")
    reporter.console.print(inspected.table(facts))
    reporter.say(*(f"! {sentence}" for sentence in facts["warnings"]))
    reporter.say(f"page    {os.path.relpath(page)}")
    return {}


def _let_bad_rows_pass(data: ComparisonData) -> None:
    """Bad rows are a finding here: they are counted, and stop nothing."""
    for source in data.sources.values() if isinstance(data, Mixture) else (data,):
        source.recipe = dataclasses.replace(source.recipe, on_bad_row="skip", max_bad_share=1.0)
