"""task=inspect: facts and warnings about a data set before training; loads no model."""

import os
from collections.abc import Mapping
from typing import Any

from rmexp.analysis.inspect.examples import subset_examples
from rmexp.analysis.inspect.first_look import first_look
from rmexp.analysis.inspect.leakage import overlaps
from rmexp.analysis.inspect.prompts import Prompt, read_prompts
from rmexp.analysis.inspect.rows import gather
from rmexp.analysis.inspect.summary import describe_data, warnings
from rmexp.analysis.report import inspect_page
from rmexp.core.console import Reporter
from rmexp.core.errors import UserError
from rmexp.data.comparison_data import ComparisonData
from rmexp.templates.template import Template
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.setup import prepare_data


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
        data: bad rows are reported for any `data.on_bad_row`; if no row can be used, only the
            description of the source is printed.
        labels: the chosen option of each group, for the title.
        against: evaluation sets whose prompts should not be in the data.

    Raises:
        UserError: an evaluation set cannot be read.
    """
    others: list[Prompt] = []
    for path in against:
        found, report = read_prompts(path)
        others += found
        reporter.say(f"against {path}: {len(found)} prompts", *report.lines()[1:])
    looked = list(first_look(data.source, labels["data"]))
    reporter.say(*looked)
    data.source = data.source.replaced(on_bad_row="skip", max_bad_share=1.0)
    try:
        prepare_data(model, template, data, seed, run, reporter)
    except UserError as error:
        run.write_json("inspect.json", {"first_look": looked, "error": str(error)})
        if not any(str(error) in line for line in looked):
            reporter.say(f"! Nothing can be trained on here: {error}")
        return {}
    rows, prompts = gather(data, reporter.count)
    facts = describe_data(data, rows, overlaps(prompts, others, reporter.count))
    facts["warnings"] = list(warnings(facts))
    facts["examples"] = subset_examples(data, rows, list(facts["subsets"]))
    run.write_json("inspect.json", facts)
    page = run.path / "inspect.html"
    text = inspect_page.inspect_page(f"data={labels['data']}", ", ".join(data.source.paths), facts)
    page.write_text(text, encoding="utf-8")
    reporter.console.print(inspect_page.inspect_table(facts))
    reporter.say(*(f"! {sentence}" for sentence in facts["warnings"]))
    reporter.say(f"page    {os.path.relpath(page)}")
    return {}
