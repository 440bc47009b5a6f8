"""How likely labels are wrong, by models that did not train on them.

A model's gap over its temperature is the log odds that a label is right. The share of wrong labels
is estimated by confident learning (Northcutt et al. 2021, arXiv:1911.00068), here with two classes
that mirror each other, so that both have one threshold; the mean of several models is that of Wang
et al. 2024, arXiv:2401.06080, section 2.1, who average ten.

Shapes: M models, P labelled pairs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import expit

from rmexp.data.comparison_data import ComparisonData
from rmexp.data.label_file import pair_content
from rmexp.evaluation.scored_set import EvalLabels
from rmexp.evaluation.stats.bootstrap import Estimate, clustered, clustered_mean, ratio


@dataclass(frozen=True)
class LabelDoubts:
    """The labels of pairs, and what models say of those that they did not train on.

    labels       of the pairs
    logits_M_P   gap of a model over its temperature; NaN where it may have trained on the pair

    Each pair has a model at least: see `judged`.
    """

    labels: EvalLabels
    logits_M_P: np.ndarray

    @classmethod
    def judged(cls, labels: EvalLabels, logits_M_P: np.ndarray) -> "LabelDoubts":
        """Of the pairs that some model judges; `labels` keeps the other responses."""
        keep = ~np.isnan(logits_M_P).all(0)
        kept = vars(labels) | {n: v[keep] for n, v in vars(labels).items() if n.endswith("_P")}
        return cls(EvalLabels(**kept), logits_M_P[:, keep])

    @cached_property
    def wrong_P(self) -> np.ndarray:
        """Probability that the label is wrong: the mean of the models'."""
        return np.nanmean(expit(-self.logits_M_P), axis=0)

    @cached_property
    def gaps_P(self) -> np.ndarray:
        """Mean log odds that the label is right."""
        return np.nanmean(self.logits_M_P, axis=0)

    @cached_property
    def stds_P(self) -> np.ndarray:
        """Standard deviation of the log odds over the models; NaN of a single one."""
        alone_P = self.models_P < 2
        return np.where(alone_P, np.nan, np.nanstd(self.logits_M_P, axis=0))

    @property
    def models_P(self) -> np.ndarray:
        """The number of models that judge the pair."""
        return (~np.isnan(self.logits_M_P)).sum(0)

    @property
    def order(self) -> np.ndarray:
        """The pairs, the most suspect first."""
        return np.lexsort((self.gaps_P, -self.wrong_P))

    @property
    def threshold(self) -> float:
        """The mean probability of the label: confident learning counts what is surer than it."""
        return float(1 - self.wrong_P.mean())

    def shares(self) -> list[dict[str, Any]]:
        """The share of suspected labels, of all pairs and of each subset, with 95% intervals."""
        names = sorted(set(self.labels.subsets_P))
        parts = {"all": np.ones(len(self.wrong_P), dtype=bool)}
        if len(names) > 1:
            parts |= {name: self.labels.subsets_P == name for name in names}
        return [self._share(name, here_P) for name, here_P in parts.items()]

    def _share(self, name: str, here_P: np.ndarray) -> dict[str, Any]:
        wrong_P, prompts_P = self.wrong_P[here_P], self.labels.prompts_P[here_P]
        against = clustered_mean((wrong_P > 0.5).astype(float), prompts_P, span=(0, 1))
        found = {"subset": name, "pairs": len(wrong_P), "prompts": len(np.unique(prompts_P))}
        firm = _confident_share(wrong_P, prompts_P, self.threshold)
        return found | against.named("against") | firm.named("wrong")


def _confident_share(wrong_P: np.ndarray, prompts_P: np.ndarray, threshold: float) -> Estimate:
    """Of the labels that models are sure of, the share that they are sure is wrong."""
    sides = [wrong_P >= threshold, 1 - wrong_P >= threshold]
    columns = np.stack(sides, axis=1).astype(float)
    return clustered(
        columns, prompts_P, lambda sums: ratio(sums[..., 0], sums.sum(-1)), span=(0, 1)
    )


def label_rows(
    doubts: LabelDoubts, data: ComparisonData, places: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """The rows of the file of labels (`data.label_file`), the most suspect first.

    Args:
        data: the rows of `doubts`.
        places: id of a comparison -> where it is, `file:line`.
    """
    labels = doubts.labels
    starts_C = np.searchsorted(labels.rows_N, np.arange(len(labels.items_C)))
    homes = {int(row): split for split, rows in data.splits.items() for row in rows}
    names = ["id", "prompt_key", "response_keys"]
    columns = data.rows.select_columns(names).select(labels.items_C)[:]
    for pair in doubts.order.tolist():
        c = int(labels.rows_N[labels.better_P[pair]])
        i, j = (int(side[pair] - starts_C[c]) for side in (labels.better_P, labels.worse_P))
        name, keys, std = columns["id"][c], columns["response_keys"][c], doubts.stds_P[pair]
        yield {
            "id": name,
            "pair": [i, j],
            "wrong": round(float(doubts.wrong_P[pair]), 4),
            "gap": round(float(doubts.gaps_P[pair]), 4),
            "std": None if np.isnan(std) else round(float(std), 4),
            "models": int(doubts.models_P[pair]),
            "subset": labels.subsets_C[c],
            "split": homes.get(int(labels.items_C[c])),
            "place": places.get(name, ""),
            "content": pair_content(columns["prompt_key"][c], keys[i], keys[j]),
        }


def doubt_sentences(doubts: LabelDoubts, shares: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the figures say, and what they do not."""
    everything = shares[0]
    right = 1 - everything["against"]
    yield (
        f"{len(doubts.logits_M_P)} models that did not train on them agree with {right:.1%} of "
        f"{everything['pairs']} labels. Where they disagree, the models may be wrong as well; "
        f"confident learning counts {everything['wrong']:.1%} of the labels as wrong, which is too "
        "many where the models are weak."
    )
    if right < 0.55:
        yield (
            "The models are hardly better than chance, so that their disagreement says little "
            "about the labels."
        )
