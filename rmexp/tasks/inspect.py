"""task=inspect: facts and warnings about a data set before training.

A model is loaded only for `task.folds`, whose heads judge the labels.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from omegaconf import DictConfig

from rmexp.analysis.compare.runs import places
from rmexp.analysis.inspect.examples import subset_examples
from rmexp.analysis.inspect.first_look import first_look
from rmexp.analysis.inspect.label_doubts import LabelDoubts, doubt_sentences, label_rows
from rmexp.analysis.inspect.leakage import overlaps
from rmexp.analysis.inspect.prompts import Prompt, read_prompts
from rmexp.analysis.inspect.rows import gather
from rmexp.analysis.inspect.summary import describe_data, warnings
from rmexp.analysis.inspect.suspects import suspect_examples
from rmexp.analysis.inspect.unseen_runs import logits_of_runs
from rmexp.analysis.report import inspect_page
from rmexp.config.task_inputs import InputGroup
from rmexp.core.atomic_file import replace_file
from rmexp.core.console import Reporter, relative_path
from rmexp.core.errors import UserError
from rmexp.data.comparison_data import ComparisonData
from rmexp.evaluation.scored_set import eval_labels
from rmexp.templates.template import Template
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.optim import AdamW
from rmexp.training.out_of_fold import out_of_fold_logits
from rmexp.training.setup import prepare_data
from rmexp.training.trainer import TrainerSettings

LABEL_FILE = "labels.jsonl"
"""The file of judged labels in the run directory, for `data.exclude` and `data.relabel`."""


@dataclass
class UnseenModels(InputGroup):
    """The models that judge labels: `runs`, or heads that train on parts of the rows."""

    runs: str | list[str] | None
    folds: Annotated[int, Ge(2)] | None
    repeats: Annotated[int, Ge(1)]
    optim: AdamW
    trainer: TrainerSettings


def inspect(
    model: Any,
    template: Template,
    data: ComparisonData,
    run: RunDirectory,
    reporter: Reporter,
    seed: int,
    labels: Mapping[str, str],
    against: list[str],
    judges: UnseenModels,
) -> dict[str, float]:
    """Write `inspect.json` and `inspect.html`, and print their figures and warnings.

    Args:
        model: for its tokenizer.
        data: bad rows are reported for any `data.on_bad_row`; if no row can be used, only the
            description of the source is printed.
        labels: the chosen option of each group, for the title.
        against: evaluation sets whose prompts should not be in the data.
        judges: with runs or folds, they rank labels by how firmly they disagree (`labels.jsonl`).

    Raises:
        UserError: an evaluation set cannot be read, or the labels cannot be judged.
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
    doubts = None
    if judges.runs or judges.folds:
        doubts = judge_labels(model, template, data, judges, seed, reporter)
        labelled = list(label_rows(doubts, data, {row.id: row.place for row in rows}))
        write_rows(run.path / LABEL_FILE, labelled)
        facts["labels"] = {"shares": doubts.shares(), "examples": suspect_examples(data, labelled)}
        facts["labels"]["said"] = list(doubt_sentences(doubts, facts["labels"]["shares"]))
    run.write_json("inspect.json", facts)
    page = run.path / "inspect.html"
    text = inspect_page.inspect_page(f"data={labels['data']}", ", ".join(data.source.paths), facts)
    page.write_text(text, encoding="utf-8")
    reporter.console.print(inspect_page.inspect_table(facts))
    reporter.say(*(f"! {sentence}" for sentence in facts["warnings"]))
    if doubts is not None:
        for table in inspect_page.label_tables(facts["labels"]):
            reporter.say("")
            reporter.console.print(table)
        reporter.say("", *facts["labels"]["said"])
        file = relative_path(run.path / LABEL_FILE)
        reporter.say(f"labels  {file}   train without the suspects: data.exclude={file}")
    reporter.say(f"page    {os.path.relpath(page)}")
    return {}


def judge_labels(
    model: Any,
    template: Template,
    data: ComparisonData,
    judges: UnseenModels,
    seed: int,
    reporter: Reporter,
) -> LabelDoubts:
    """What models that did not train on them say of the labels.

    Runs judge the rows of all splits, heads of folds those of train.

    Raises:
        UserError: there are no pairs, or the models cannot judge them.
    """
    every = data.splits["train"] if judges.folds else np.arange(len(data.rows))
    labels = eval_labels(data.rows, every[data.columns.numbers("judged")[every] > 0])
    if not len(labels.better_P):
        raise UserError(
            "Labels are judged where one response is better than another, and no row has such a "
            "pair (ratings are pairs where they differ by data.min_rating_gap): leave out "
            f"{'task.folds' if judges.folds else 'task.runs'}."
        )
    if judges.runs:
        logits_M_P = logits_of_runs(judges.runs, data, labels)
    else:
        assert judges.folds is not None
        how = (judges.folds, judges.repeats, judges.optim, judges.trainer)
        logits_M_P = out_of_fold_logits(model, template, data, labels, *how, seed, reporter)
    doubts = LabelDoubts.judged(labels, logits_M_P)
    if rest := len(labels.better_P) - len(doubts.wrong_P):
        reporter.say(
            f"{rest} of {len(labels.better_P)} labels have no model that did not train on them"
        )
    return doubts


def check_inspect(config: DictConfig) -> None:
    """Check that there is something at the places of the runs, and one way to judge labels."""
    runs, folds = config.task.runs, config.task.folds
    for text in [runs] if isinstance(runs, str) else runs or ():
        places(str(text))
    if runs and folds:
        raise UserError("task.runs and task.folds both judge the labels: leave out one of them.")


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSONL file, whole or not at all."""
    with replace_file(file) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
