"""task=score: rewards of the responses in a file of any length."""

import time
from pathlib import Path
from typing import Any

from rmexp.config.trust import Trust
from rmexp.core.console import Reporter
from rmexp.core.errors import UserError, note_fallback
from rmexp.core.process_memory import peak_memory_gib
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport, check_bad_rows
from rmexp.data.row_source import OWN_TEMPLATE_NOTE, MixedSource
from rmexp.data.tokenize_spec import source_fingerprint
from rmexp.evaluation.aggregate import Aggregate, Aggregation, LcbLambda
from rmexp.evaluation.calibration import load_calibration
from rmexp.inference.checkpoint import weights_of, with_others
from rmexp.inference.resumable_file import check_out
from rmexp.inference.score_file import ScoreFile, score_stream
from rmexp.inference.scorer import open_scorer
from rmexp.policy.implicit_model import ImplicitModel, open_implicit_scorer
from rmexp.templates.template import Template, template_fingerprint
from rmexp.tracking.environment import describe_environment
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.setup import seed_everything
from rmexp.training.trainer import TrainerSettings


def score(
    checkpoint: str | list[str],
    out: str,
    model: Any,
    template: Template,
    data: ComparisonData,
    trainer: TrainerSettings,
    run: RunDirectory,
    reporter: Reporter,
    seed: int,
    trust: Trust,
    aggregate: Aggregate | None,
    lcb_lambda: LcbLambda,
) -> dict[str, float]:
    """Write `id response reward` of every response to `out`, in the order of the rows.

    An ensemble also writes `std` and `members`, a head with attributes or quantiles `outputs`; see
    `RewardDetails`.

    Rows are tokenised window by window, so that memory holds one window. After a kill, the same
    command resumes after the last window. A response that cannot be scored (too long) has a null
    reward and is counted.

    Args:
        checkpoint: the run or Hugging Face directory that `model` loads from, or a list of these,
            which scores as an ensemble; None for an `ImplicitModel`.
        out: a new .jsonl or .parquet file.
        data: pairs, lists or single responses, with or without labels.
        aggregate: of an ensemble; None: the mean.
        lcb_lambda: of `lcb`.

    Raises:
        UserError: rows, checkpoint or `out` cannot be used.
    """
    file = check_out(out)
    source = data.source
    if isinstance(source, MixedSource):
        raise UserError("task=score reads one source: give data=jsonl data.path=FILE.")
    source.check()
    seed_everything(seed)
    tokenizer = model.load_tokenizer()
    template.install(tokenizer)
    recipe, precision = source.spec, trainer.resolved_precision()
    own = source.own_tokenizer(tokenizer)
    if own is not tokenizer:
        note_fallback(OWN_TEMPLATE_NOTE)
    fingerprint = template_fingerprint(own)
    implicit = isinstance(model, ImplicitModel)
    path = None if implicit else getattr(model, "path", None) or model.weights
    weights = model.fingerprint() if path is None else source_fingerprint(path)
    key = [weights, recipe.dialogues_key, fingerprint, precision]
    members = checkpoint if isinstance(checkpoint, list) else []
    home = Path(checkpoint if isinstance(checkpoint, str) else next(iter(members), "")).expanduser()
    how = Aggregation(aggregate or "mean", lcb_lambda)
    if aggregate is not None:
        key += [how.aggregate, str(how.lcb_lambda)]
    if members:
        key += [source_fingerprint(str(weights_of(Path(one).absolute()))) for one in members[1:]]
    scores = ScoreFile(file, key)
    run.write_json("environment.json", describe_environment(template=fingerprint, seed=seed))
    sizes = recipe.max_length, data.batching.micro_batch_tokens
    scorer = (
        open_implicit_scorer(model, tokenizer, trainer.device(), precision, *sizes)
        if implicit
        else open_scorer(
            model,
            tokenizer,
            trainer.device(),
            precision,
            model.layout,
            *sizes,
            load_calibration(home),
        )
    )
    name = model.name
    if members:
        scorer = with_others(scorer, members, how, trainer.accelerator, trust)
        name = scorer.cost
    else:
        scorer.aggregate_members(aggregate, lcb_lambda)
    for part in scorer.parts:  # whose template was found to be the trained one
        part.tokenizer = source.own_tokenizer(part.tokenizer)
    reporter.say(
        f"model: {name}, layout {scorer.layout}, {precision}",
        *([f"resuming after {scores.responses} responses"] if scores.responses else []),
    )
    reading, before, started = RowReport(), scores.responses, time.monotonic()

    def stop_at_bad_rows() -> None:
        if recipe.on_bad_row == "raise" and (found := scores.rows_with(reading)).bad:
            check_bad_rows(found, recipe.on_bad_row, recipe.max_bad_share)

    rows = read_comparisons(recipe.paths, recipe.parse, reading, recipe.limit, recipe.reading)
    score_stream(rows, scorer, scores, stop_at_bad_rows, reporter.count)
    found = scores.rows_with(reading)
    check_bad_rows(found, recipe.on_bad_row, recipe.max_bad_share)
    scores.finish()
    seconds = time.monotonic() - started
    rate = (scores.responses - before) / seconds
    reporter.say(
        *found.lines(),
        f"{scores.responses} responses scored in {seconds:.1f} s ({rate:.1f} a second): {file}",
    )
    run.update(
        scored=model.name if implicit else checkpoint,
        out=str(file),
        rows=found.to_dict(),
        responses=scores.responses,
        responses_per_second=round(rate, 2),
        layout=scorer.layout,
        precision=precision,
        peak_memory_gib=round(peak_memory_gib(), 2),
    )
    return {}
