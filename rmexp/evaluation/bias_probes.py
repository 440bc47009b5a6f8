"""Bias probes: does the reward depend on length and formatting? Cheap enough for each validation.

Correlations are within a comparison: a prompt that asks for a list and gets better answers is no
bias.
"""

import numpy as np

from rmexp.data.text_style import MARKS


def reward_correlations(
    rewards_N: np.ndarray, tokens_N: np.ndarray, style_N_S: np.ndarray, rows_N: np.ndarray
) -> dict[str, float]:
    """Correlations of rewards with what they should not depend on; those that vary.

    length_r2              share of the reward's variance explained by tokens and log characters
    verbosity_correlation  of reward and log characters; `headers_`, `lists_` and
                           `bold_correlation`: of reward and log(1 + count)
    position_correlation   of reward and position of the pooled token, over all responses

    Args:
        rewards_N: reward of each response.
        tokens_N: length as rendered, prompt included: the position of the pooled token.
        style_N_S: counts of `text_style.STYLE_NAMES`.
        rows_N: the comparison of each response, numbered from 0.
    """
    rewards_N, tokens_N = rewards_N.astype(np.float64), tokens_N.astype(np.float64)
    out = {"position_correlation": correlation(rewards_N, tokens_N)}
    # Logarithms: the tenth header matters less than the first.
    columns = [rewards_N, tokens_N, *np.log1p(style_N_S.astype(np.float64)).T]
    reward, tokens, *counts = centred(np.column_stack(columns), rows_N).T
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
