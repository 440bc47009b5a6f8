"""Rewards of responses by name: of runs, Hugging Face directories, files, or the ratings."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rmexp import __version__
from rmexp.analysis.best_of_n.candidates import RewardLists
from rmexp.analysis.best_of_n.study import GOLD
from rmexp.analysis.compare.runs import places
from rmexp.comparison import Comparison
from rmexp.config.trust import Trust
from rmexp.core.disk_cache import load_or_build
from rmexp.core.errors import UserError, note_fallback
from rmexp.data.reward_file import ResponseKey, read_rewards
from rmexp.data.tokenize_spec import source_fingerprint
from rmexp.evaluation.aggregate import Aggregate
from rmexp.evaluation.external_rewards import join_rewards
from rmexp.inference.checkpoint import find_export, is_run, load_scorer, weights_of
from rmexp.inference.score_file import ScoreFile, score_stream

ROW_RATINGS = "ratings"
"""The gold that stands in the rows."""

TAKEN = (GOLD, *Aggregate.__args__)  # type: ignore[attr-defined]
"""Names that no model may have."""


def reward_places(runs: str | Sequence[str]) -> dict[str, Path]:
    """Name -> run directory, Hugging Face directory or file of rewards.

    Raises:
        UserError: there is no such thing, or nothing that has rewards.
    """
    names = Counter(TAKEN)
    found: dict[str, Path] = {}
    for text in [runs] if isinstance(runs, str) else map(str, runs):
        path = Path(text).expanduser()
        model = path.is_dir() and not is_run(path) and find_export(path) == path
        for one in [path] if model else places(text):
            name = _name(one)
            names[name] += 1
            found[name if names[name] == 1 else f"{name}#{names[name]}"] = one
    if not found:
        raise UserError("runs=[]: name the models that choose: runs=[RUN,REWARDS.jsonl].")
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
    found = list(reward_places(gold).values())
    if len(found) > 1:
        raise UserError(f"task.gold={gold} has {len(found)} runs: name one of them.")
    return found[0]


def _name(path: Path) -> str:
    if path.is_file():
        return path.name.partition(".")[0]
    home = path.absolute()
    return home.parent.name if home.name == "export" else home.name


@dataclass(frozen=True)
class RewardReader:
    """Gives comparisons their rewards; those of models are computed once and cached.

    Args:
        comparisons: the responses.
        key: hash of their texts.
        cache: directory for rewards.
        trust: what the configurations of runs may name.
        progress: called with what is counted and the count so far.
    """

    comparisons: Sequence[Comparison]
    key: str
    cache: Path
    trust: Trust
    progress: Callable[[str, int], None]

    def rewards(self, name: str, path: Path) -> RewardLists:
        """The rewards of a model or of a file; what has none is noted.

        Raises:
            UserError: the model or the file cannot be used, or no comparison has rewards.
        """
        known = read_rewards(str(path)) if path.is_file() else self._of_model(path)
        counts = [len(one.responses) for one in self.comparisons]
        found, notes = join_rewards([one.id for one in self.comparisons], counts, known)
        for note in notes:
            note_fallback(f"{name}: {note}")
        return found

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

    def _of_model(self, path: Path) -> Mapping[ResponseKey, float]:
        parts = [__version__, source_fingerprint(str(weights_of(path).absolute())), self.key]
        scored = ScoreFile.key_of(parts)
        home = self.cache / "rewards" / scored

        def score(folder: Path) -> None:
            scorer = load_scorer(
                path, trust=self.trust.targets, trust_remote_code=self.trust.remote_code
            )
            file = ScoreFile(home.with_name(f"{scored}.parquet"), parts)  # resumes after a kill
            score_stream(self.comparisons, scorer, file, lambda: None, self.progress)
            file.finish()
            os.replace(file.out, folder / "rewards.parquet")

        return load_or_build(
            home, lambda folder: read_rewards(str(folder / "rewards.parquet")), score
        )[0]
