"""task=best_of_n: how good are the responses that reward models choose, by a gold reward?"""

from pathlib import Path

from omegaconf import DictConfig

from rmexp.analysis.best_of_n.candidates import candidate_set
from rmexp.analysis.best_of_n.study import best_of_n_study
from rmexp.analysis.best_of_n.tables import choosers_table, study_facts, write_curves
from rmexp.analysis.report.best_of_n_page import best_of_n_page
from rmexp.analysis.report.compare_output import table_console
from rmexp.config.trust import Trust
from rmexp.core.console import Reporter, relative_path
from rmexp.core.errors import UserError
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport, check_bad_rows
from rmexp.data.row_source import MixedSource
from rmexp.evaluation.aggregate import Aggregates, Aggregation, LcbLambda
from rmexp.policy.reward_sources import RewardReader, gold_place, reward_places
from rmexp.tracking.environment import describe_environment
from rmexp.tracking.run_directory import RunDirectory


def best_of_n(
    runs: str | list[str],
    data: ComparisonData,
    run: RunDirectory,
    reporter: Reporter,
    trust: Trust,
    cache: str,
    name: str,
    seed: int,
    gold: str,
    aggregate: Aggregates,
    lcb_lambda: LcbLambda,
) -> dict[str, float]:
    """Print the table and verdicts; write `report.html`, `curves.csv` and `plots/`.

    Args:
        runs: models that choose: runs, Hugging Face directories or files of rewards.
        data: several responses to each prompt.
        name: title of the page.
        gold: what the chosen responses are measured by: a run, a directory, a file of rewards, or
            `ratings`, those of the rows.
        aggregate: ensembles of all `runs` that choose too.
        lcb_lambda: of the ensemble `lcb`: mean - lambda x standard deviation.

    Raises:
        UserError: rows or rewards cannot be used, or no prompt has several responses.
    """
    source, places, best = data.source, reward_places(runs), gold_place(gold)
    if isinstance(source, MixedSource) or source.templates:
        raise UserError(
            "task=best_of_n reads one source, and models have their own templates: leave out "
            "data=mix, data.template and data.system."
        )
    ensembles = Aggregation.of_each(aggregate, lcb_lambda)
    if ensembles and len(places) < 2:
        raise UserError(f"aggregate={ensembles[0].aggregate} needs two runs or more.")
    source.check()
    run.write_json("environment.json", describe_environment(seed=seed))
    report, recipe = RowReport(), source.spec
    rows = read_comparisons(recipe.paths, recipe.parse, report, recipe.limit, recipe.reading)
    comparisons = list(rows)
    report.kept = len(comparisons)
    check_bad_rows(report, recipe.on_bad_row, recipe.max_bad_share)
    reporter.say(*report.lines())
    reader = RewardReader(
        comparisons, recipe.dialogues_key, Path(cache).expanduser(), trust, reporter.count
    )
    golden = reader.ratings() if best is None else reader.rewards("gold", best)
    rewards = {chooser: reader.rewards(chooser, path) for chooser, path in places.items()}
    candidates = candidate_set(comparisons, golden, rewards, ensembles)
    reporter.say(
        f"{candidates.prompts} prompts with {candidates.most} responses, gold: {gold}, "
        f"standard deviation {candidates.gold_spread:.4g} within prompts"
    )
    study = best_of_n_study(candidates)
    facts = study_facts(study)
    write_curves(study, run.path / "curves.csv")
    page = best_of_n_page(name, f"gold: {gold} · {', '.join(source.paths)}", study, run.path)
    (run.path / "report.html").write_text(page, encoding="utf-8")
    run.update(
        compared=[str(path) for path in places.values()],
        gold=gold,
        rows=report.to_dict(),
        best_of_n=facts,
        verdicts=facts["verdicts"],
    )
    table_console(reporter).print(choosers_table(study))
    reporter.say("", *facts["verdicts"], f"page    {relative_path(run.path / 'report.html')}")
    return {}


def check_best_of_n(config: DictConfig) -> None:
    """Check that the models and the gold exist, and that the gold is none of those that choose."""
    choosers, best = reward_places(config.runs), gold_place(config.task.gold)
    if best is not None and best.resolve() in {path.resolve() for path in choosers.values()}:
        raise UserError(f"task.gold={config.task.gold} is in runs too: the gold may not choose.")
