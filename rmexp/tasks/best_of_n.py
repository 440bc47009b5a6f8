"""task=best_of_n: how good are the responses that reward models choose, by a gold reward?"""

from pathlib import Path

from omegaconf import DictConfig

from rmexp.analysis.best_of_n.candidates import candidate_set
from rmexp.analysis.best_of_n.study import best_of_n_study
from rmexp.analysis.best_of_n.tables import choosers_table, study_facts, write_curves
from rmexp.analysis.report.best_of_n_page import best_of_n_page
from rmexp.analysis.report.compare_output import table_console
from rmexp.config.validate import is_implicit
from rmexp.core.console import Reporter, relative_path
from rmexp.core.errors import UserError
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport, check_bad_rows
from rmexp.data.row_source import MixedSource
from rmexp.evaluation.aggregate import Aggregates, Aggregation, LcbLambda
from rmexp.inference.checkpoint import has_members
from rmexp.policy.implicit_model import ImplicitModel
from rmexp.policy.reward_sources import RewardReader, RewardSources, gold_place, reward_places
from rmexp.tracking.environment import describe_environment
from rmexp.tracking.run_directory import RunDirectory


def best_of_n(
    runs: str | list[str],
    sources: RewardSources,
    data: ComparisonData,
    run: RunDirectory,
    reporter: Reporter,
    name: str,
    seed: int,
    gold: str,
    aggregate: Aggregates,
    lcb_lambda: LcbLambda,
) -> dict[str, float]:
    """Print the table and verdicts; write `report.html`, `curves.csv` and `plots/`.

    Args:
        runs: models that choose: runs, Hugging Face directories or files of rewards.
        sources: of rewards besides files; an implicit reward chooses too.
        data: several responses to each prompt.
        name: title of the page.
        gold: what the chosen responses are measured by: a run, a directory, a file of rewards, or
            `ratings`, those of the rows.
        aggregate: ensembles of all that choose, which choose too; of one run with head=ensemble,
            of its members.
        lcb_lambda: of the ensemble `lcb`: mean - lambda x standard deviation.

    Raises:
        UserError: rows or rewards cannot be used, or no prompt has several responses.
    """
    source, best = data.source, gold_place(gold)
    choosers: dict[str, Path | ImplicitModel] = {**reward_places(runs or [])}
    if sources.implicit is not None:
        choosers[sources.implicit.name] = sources.implicit
    if isinstance(source, MixedSource) or source.templates:
        raise UserError(
            "task=best_of_n reads one source, and models have their own templates: leave out "
            "data=mix, data.template and data.system."
        )
    ensembles = Aggregation.of_each(aggregate, lcb_lambda)
    one = _with_members(choosers) if ensembles else None
    if ensembles and one is None and len(choosers) < 2:
        raise UserError(
            f"aggregate={ensembles[0].aggregate} needs two runs or more, or one with head=ensemble."
        )
    source.check()
    run.write_json("environment.json", describe_environment(seed=seed))
    report, recipe = RowReport(), source.spec
    rows = read_comparisons(recipe.paths, recipe.parse, report, recipe.limit, recipe.reading)
    comparisons = list(rows)
    report.kept = len(comparisons)
    check_bad_rows(report, recipe.on_bad_row, recipe.max_bad_share)
    reporter.say(*report.lines())
    reader = RewardReader(sources, comparisons, data, reporter.count)
    golden = reader.ratings() if best is None else reader.rewards("gold", best)
    rewards = {chooser: reader.rewards(chooser, model) for chooser, model in choosers.items()}
    members = [] if one is None else reader.members(*one)
    candidates = candidate_set(comparisons, golden, rewards, ensembles, members)
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
        compared=[str(m) if isinstance(m, Path) else name for name, m in choosers.items()],
        gold=gold,
        rows=report.to_dict(),
        best_of_n=facts,
        verdicts=facts["verdicts"],
    )
    table_console(reporter).print(choosers_table(study))
    reporter.say("", *facts["verdicts"], f"page    {relative_path(run.path / 'report.html')}")
    return {}


def _with_members(choosers: dict[str, Path | ImplicitModel]) -> tuple[str, Path] | None:
    """The only chooser, if it is a model with head=ensemble."""
    if len(choosers) == 1:
        ((name, one),) = choosers.items()
        if isinstance(one, Path) and one.is_dir() and has_members(one):
            return name, one
    return None


def check_best_of_n(config: DictConfig) -> None:
    """Check that the models and the gold exist, and that the gold is none of those that choose."""
    choosers, best = reward_places(config.runs or []), gold_place(config.task.gold)
    if not choosers and not is_implicit(config):
        raise UserError("runs=[]: name the models that choose: runs=[RUN,REWARDS.jsonl].")
    if best is not None and best.resolve() in {path.resolve() for path in choosers.values()}:
        raise UserError(f"task.gold={config.task.gold} is in runs too: the gold may not choose.")
