"""Rewards of responses by name: of runs, Hugging Face directories, files, policies, or ratings."""

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rmexp import __version__
from rmexp.analysis.best_of_n.candidates import RewardLists
from rmexp.analysis.best_of_n.study import GOLD
from rmexp.analysis.compare.runs import places
from rmexp.comparison import Comparison
from rmexp.config.task_inputs import InputGroup
from rmexp.config.trust import Trust
from rmexp.core.disk_cache import load_or_build
from rmexp.core.errors import UserError, note_fallback
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.reward_file import ResponseKey, check_rewards, read_rewards
from rmexp.data.tokenize_spec import source_fingerprint
from rmexp.evaluation.aggregate import Aggregate
from rmexp.evaluation.calibration import Calibration, load_calibration
from rmexp.evaluation.eval_cases import EvalCase
from rmexp.evaluation.external_rewards import join_rewards
from rmexp.inference.checkpoint import (
    find_export,
    is_run,
    load_scorer,
    weights_of,
)
from rmexp.inference.score_file import ScoreFile, read_members, score_stream
from rmexp.inference.scorer import Scorer
from rmexp.policy.implicit_model import ImplicitModel, open_implicit_scorer
from rmexp.tracking.predictions import read_predictions
from rmexp.training.trainer import TrainerSettings

Loaded = TypeVar("Loaded")

ROW_RATINGS = "ratings"
"""The gold that stands in the rows."""

IMPLICIT = "model=implicit"
"""The name of the implicit reward among sources of rewards."""

TAKEN = (GOLD, *Aggregate.__args__)  # type: ignore[attr-defined]
"""Names that no model may have."""


def reward_places(runs: str | Sequence[str], key: str = "runs") -> dict[str, Path]:
    """Name -> run directory, Hugging Face directory or file of rewards.

    Args:
        key: that they are given to, for messages.

    Raises:
        UserError: there is no such thing, or nothing that has rewards.
    """
    names = Counter(TAKEN)
    found: dict[str, Path] = {}
    for text in [runs] if isinstance(runs, str) else map(str, runs):
        path = Path(text).expanduser()
        model = path.is_dir() and not is_run(path) and find_export(path) == path
        for one in [path] if model else places(text, key):
            name = _name(one)
            names[name] += 1
            found[name if names[name] == 1 else f"{name}#{names[name]}"] = one
    return found


def score_sources(scores: Sequence[str]) -> list[str]:
    """What `eval.scores` stands for: files as they are, and the runs of a folder one by one.

    Raises:
        UserError: there is no such file, or no model in a directory.
    """
    found: list[str] = []
    for one in scores:
        if Path(one).expanduser().is_dir():
            found += map(str, reward_places(one, "eval.scores").values())
        else:
            check_rewards(one)
            found.append(one)
    return found


def gold_place(gold: str) -> Path | None:
    """The run, directory or file of the gold rewards; None: the ratings of the rows.

    Raises:
        UserError: there is no such thing, or it is several runs.
    """
    if gold == ROW_RATINGS:
        return None
    if not Path(gold).expanduser().exists():
        raise UserError(
            f"task.gold={gold}: there is no such run, directory or file of rewards; the ratings of "
            f"the rows are task.gold={ROW_RATINGS} (data.fields.rating=COLUMN names their column)."
        )
    found = list(reward_places(gold, "task.gold").values())
    if len(found) > 1:
        raise UserError(f"task.gold={gold} has {len(found)} runs: name one of them.")
    return found[0]


def _name(path: Path) -> str:
    if path.is_file():
        return path.name.partition(".")[0]
    home = path.absolute()
    return home.parent.name if home.name == "export" else home.name


@dataclass
class RewardSources(InputGroup):
    """What gives rewards besides files, as inputs of a task.

    Args:
        implicit: of `model=implicit`; None: another model.
        trainer: device and precision of all models.
        trust: what the configurations of runs may name.
        cache: directory for rewards, which are computed once.
    """

    implicit: ImplicitModel | None
    trainer: TrainerSettings
    trust: Trust
    cache: str


@dataclass(frozen=True)
class RewardReader:
    """Gives comparisons their rewards; those of models are computed once and cached.

    Args:
        sources: of rewards.
        comparisons: the responses.
        data: its `max_length` and its sizes of batches hold for the implicit reward.
        progress: called with what is counted and the count so far.
    """

    sources: RewardSources
    comparisons: Sequence[Comparison]
    data: ComparisonData
    progress: Callable[[str, int], None]

    def rewards(self, name: str, source: Path | ImplicitModel) -> RewardLists:
        """The rewards of a model or of a file; what has none is noted.

        Raises:
            UserError: the model or the file cannot be used, or no comparison has rewards.
        """
        return self._joined(name, self.of_responses(source))

    def members(self, name: str, home: Path) -> list[RewardLists]:
        """The rewards of each member of a model with head=ensemble."""
        found = self._of_model(home, read_members)
        return [self._joined(name, one) for one in found]

    def ratings(self) -> RewardLists:
        """The ratings of the rows, where each response has one.

        Raises:
            UserError: no row has ratings.
        """
        found = {
            n: [float(rating) for rating in one.ratings if rating is not None]
            for n, one in enumerate(self.comparisons)
            if one.ratings is not None and None not in one.ratings
        }
        if not found:
            raise UserError(
                f"task.gold={ROW_RATINGS}: no row has a rating for each of its responses "
                "(data.fields.rating=COLUMN names the column of ratings)."
            )
        return found

    def of_responses(self, source: Path | ImplicitModel) -> Mapping[ResponseKey, float]:
        """The rewards of a model or of a file, by comparison and index of the response."""
        if isinstance(source, Path) and source.is_file():
            return read_rewards(str(source))
        return self._of_model(source, lambda file: read_rewards(str(file)))

    def _joined(self, name: str, known: Mapping[ResponseKey, float]) -> RewardLists:
        counts = [len(one.responses) for one in self.comparisons]
        found, notes = join_rewards([one.id for one in self.comparisons], counts, known)
        for note in notes:
            note_fallback(f"{name}: {note}")
        return found

    @functools.cached_property
    def _key(self) -> str:
        """A hash of the comparisons."""
        digest = hashlib.sha256()
        for one in self.comparisons:
            facts = [one.id, one.prompt_key, one.response_keys, one.unfinished, len(one.tools)]
            digest.update(json.dumps([*facts, *map(dict, one.tools)]).encode())
        return digest.hexdigest()

    def _of_model(self, source: Path | ImplicitModel, load: Callable[[Path], Loaded]) -> Loaded:
        """What `load` reads from the file of a model's rewards, which is written into the cache."""
        if isinstance(source, Path):
            weights, limit = source_fingerprint(str(weights_of(source.absolute()))), "its own"
        else:
            weights, limit = source.fingerprint(), str(self.data.source.max_length)
        precision = self.sources.trainer.resolved_precision()
        parts = [__version__, weights, self._key, precision, limit]
        scored = ScoreFile.key_of(parts)
        home = Path(self.sources.cache).expanduser() / "rewards" / scored

        def score(folder: Path) -> None:
            scorer = self._scorer(source)
            file = ScoreFile(home.with_name(f"{scored}.parquet"), parts)  # resumes after a kill
            score_stream(self.comparisons, scorer, file, lambda: None, self.progress)
            file.finish()
            os.replace(file.out, folder / "rewards.parquet")

        return load_or_build(home, lambda folder: load(folder / "rewards.parquet"), score)[0]

    def _scorer(self, source: Path | ImplicitModel) -> Scorer:
        trainer, trust = self.sources.trainer, self.sources.trust
        if isinstance(source, Path):
            return load_scorer(
                source,
                precision=trainer.precision,
                accelerator=trainer.accelerator,
                trust=trust.targets,
                trust_remote_code=trust.remote_code,
            )
        return open_implicit_scorer(
            source,
            source.load_tokenizer(),
            trainer.device(),
            trainer.resolved_precision(),
            self.data.source.max_length,
            self.data.batching.micro_batch_tokens,
        )


def join_case(case: EvalCase, sources: RewardSources, progress: Callable[[str, int], None]) -> None:
    """Give an evaluation set the rewards or verdicts of `case.scores`.

    A run that has evaluated the same set brings its own predictions; other models score the rows.

    Raises:
        UserError: they cannot be used, or nothing joins.
    """

    @functools.cache
    def reader() -> RewardReader:
        ids = set(case.data.rows.select_columns(["id"]).select(case.data.splits[case.name])["id"])
        found = []
        for one, source in case.data.source.comparisons():
            if source.templates:
                raise UserError(
                    f"{case.name}: models that eval.scores or model=implicit name have their own "
                    "templates: leave out data.template and data.system."
                )
            if one.id in ids:
                found.append(one)
        return RewardReader(sources, found, case.data, progress)

    def read(name: str) -> tuple[Mapping[ResponseKey, float], Calibration | None]:
        path = Path(name).expanduser()
        if name == IMPLICIT:
            assert sources.implicit is not None
            return reader().of_responses(sources.implicit), None
        if path.is_file():
            return read_rewards(name), None
        scale, own = load_calibration(path), _own_predictions(path, case)
        if scale is None and len(case.scores) > 1:
            note_fallback(f"{name} has no calibration, its own rewards standardise it.")
        return (reader().of_responses(path) if own is None else own), scale

    case.join(read)


def _own_predictions(run: Path, case: EvalCase) -> Mapping[ResponseKey, float] | None:
    """The rewards that a run gave to the rows of a set; None if it has not evaluated them."""
    file, facts = run / "predictions" / f"{case.name}.parquet", run / "environment.json"
    if not (file.is_file() and facts.is_file()):
        return None
    same = json.loads(facts.read_bytes()).get("data_fingerprint") == case.data.fingerprint
    return read_predictions(file) if same else None
