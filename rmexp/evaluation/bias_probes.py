"""Bias probes: does the reward depend on length and formatting? Cheap enough for each validation.

Correlations are within a comparison: a prompt that asks for a list and gets better answers is no
bias.
"""

from dataclasses import dataclass

import numpy as np

from rmexp.data.text_style import MARKS
from rmexp.evaluation.reliability import sigmoid

PENALTY = 1.0
"""Weight of slope^2 / 2 in the length regression: keeps it finite for separable data."""

STEPS = 25
"""Maximum Newton steps of the regression; it converges in under ten."""


@dataclass(frozen=True)
class Traits:
    """Properties that a reward should not depend on, of N responses and P strictly labelled pairs.

    tokens_N     length as rendered, prompt included: the position of the pooled token
    style_N_S    counts of `text_style.STYLE_NAMES`
    rows_N       the comparison of each response, numbered from 0
    better_P     index of the better response; worse_P of the other
    """

    tokens_N: np.ndarray
    style_N_S: np.ndarray
    rows_N: np.ndarray
    better_P: np.ndarray
    worse_P: np.ndarray

    @property
    def longer_P(self) -> np.ndarray:
        """Length of the better response minus that of the worse one, in tokens."""
        return self.tokens_N[self.better_P] - self.tokens_N[self.worse_P]


def probe_biases(traits: Traits, rewards_N: np.ndarray) -> dict[str, float]:
    """Compute every probe that the rows allow.

    length_baseline        accuracy of "the longer one is better"; equal lengths count half
    longer_preferred       how often the model prefers the longer response of a pair
    length_controlled_accuracy   estimated accuracy for equally long responses
    length_r2              share of the reward's variance explained by tokens and log characters
    verbosity_correlation  of reward and log characters; `headers_`, `lists_` and
                           `bold_correlation`: of reward and log(1 + count)
    formatting_baseline, formatting_preferred   as for length, for the response with more marks
    formatted_pairs        pairs that differ in marks, on which these two are computed
    position_correlation   of reward and position of the pooled token, over all responses
    """
    rewards_N = rewards_N.astype(np.float64)
    out = _correlations(traits, rewards_N)
    if not len(traits.better_P):
        return out
    gaps_P = rewards_N[traits.better_P] - rewards_N[traits.worse_P]
    longer_P = traits.longer_P
    out |= {
        "length_baseline": float(((np.sign(longer_P) + 1) / 2).mean()),
        "length_controlled_accuracy": length_controlled_accuracy(gaps_P > 0, longer_P),
    }
    if (longer_P != 0).any():
        out["longer_preferred"] = _preferred(gaps_P, longer_P)
    marks_N = traits.style_N_S[:, -len(MARKS) :].sum(1)
    marked_P = marks_N[traits.better_P] - marks_N[traits.worse_P]
    out["formatted_pairs"] = float((marked_P != 0).sum())
    if (marked_P != 0).any():
        out["formatting_baseline"] = float((marked_P[marked_P != 0] > 0).mean())
        out["formatting_preferred"] = _preferred(gaps_P, marked_P)
    return out


def _preferred(gaps_P: np.ndarray, more_P: np.ndarray) -> float:
    """How often the model prefers the response that has more, where they differ; ties half."""
    towards = np.sign(gaps_P) * np.sign(more_P)
    return float(((towards[more_P != 0] + 1) / 2).mean())


def length_controlled_accuracy(right_P: np.ndarray, longer_P: np.ndarray) -> float:
    """Estimated accuracy if better and worse responses were equally long.

    P(right) = sigmoid(a + b tanh(longer / spread)) is fitted over pairs, with the root mean square
    of `longer` as spread, and evaluated at `longer` = 0: sigmoid(a). This is the length term of
    length-controlled win rates (Dubois et al. 2024, arXiv:2404.04475), for "ranks as people did"
    instead of "wins". Without an effect of length it equals the accuracy.

    Pairs with a longer better response get the same total weight as those with a shorter one, so
    that a model which always takes the longer one scores 1/2.

    Args:
        right_P: whether the model ranks the pair as people did; a tie does not.
        longer_P: length of the better response minus that of the worse one, in tokens.
    """
    right, longer = right_P.astype(np.float64), longer_P.astype(np.float64)
    weights = _balanced(longer)
    spread = np.sqrt(np.mean(np.square(longer)))
    if not spread or right.min() == right.max():
        return float(right.mean())
    return float(sigmoid(_intercept(right, np.tanh(longer / spread), weights)))


def _balanced(longer: np.ndarray) -> np.ndarray:
    """Weights that balance pairs whose better response is longer against the others."""
    signs = np.sign(longer)
    more, less = (signs > 0).sum(), (signs < 0).sum()
    if not more or not less:
        return np.ones(len(longer))
    half = (more + less) / 2
    return np.where(signs > 0, half / more, np.where(signs < 0, half / less, 1.0))


def _intercept(y: np.ndarray, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The intercept of a logistic regression with a penalised slope, by Newton's method."""
    design = np.stack([np.ones(len(x)), x])
    penalty, beta = np.array([0.0, PENALTY]), np.zeros(2)
    for _ in range(STEPS):
        chance = sigmoid(beta @ design)
        up = design @ (weights * (y - chance)) - penalty * beta
        bend = (design * (weights * chance * (1 - chance))) @ design.T + np.diag(penalty)
        step = np.linalg.solve(bend + 1e-12 * np.eye(2), up)
        beta = beta + step * min(
            1.0, 4 / max(np.abs(step).max(), 1e-12)
        )  # damped, against overshooting
        if np.abs(step).max() < 1e-9:
            break
    return beta[0]


def _correlations(traits: Traits, rewards_N: np.ndarray) -> dict[str, float]:
    tokens_N = traits.tokens_N.astype(np.float64)
    out = {"position_correlation": correlation(rewards_N, tokens_N)}
    # Logarithms: the tenth header matters less than the first.
    columns = [rewards_N, tokens_N, *np.log1p(traits.style_N_S.astype(np.float64)).T]
    reward, tokens, *counts = centred(np.column_stack(columns), traits.rows_N).T
    out["length_r2"] = explained(reward, np.column_stack([tokens, counts[0]]))
    for name, count in zip(("verbosity", *MARKS), counts, strict=True):
        out[f"{name}_correlation"] = correlation(reward, count)
    return {name: value for name, value in out.items() if value is not None}


def centred(values_N_C: np.ndarray, rows_N: np.ndarray) -> np.ndarray:
    """Values minus their comparison's mean; unchanged where each comparison has one response."""
    counts = np.bincount(rows_N)
    if counts.max(initial=0) < 2:
        return values_N_C
    means = np.stack([np.bincount(rows_N, weights=column) for column in values_N_C.T])
    return (values_N_C - (means / np.maximum(counts, 1)).T[rows_N])[counts[rows_N] > 1]


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's correlation; None where x or y is constant."""
    x, y = x - x.mean(), y - y.mean()
    spread = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / spread if spread > 1e-9 else None


def explained(y: np.ndarray, x_N_F: np.ndarray) -> float | None:
    """The share of y's variance that a linear function of x explains; None where y is constant."""
    y, x_N_F = y - y.mean(), x_N_F - x_N_F.mean(0)
    total = float(y @ y)
    if total < 1e-18:
        return None
    scales = np.sqrt((x_N_F * x_N_F).sum(0))
    x_N_F = x_N_F / np.where(scales > 0, scales, 1.0)
    rest = y - x_N_F @ np.linalg.lstsq(x_N_F, y, rcond=None)[0]
    return float(1 - rest @ rest / total)
