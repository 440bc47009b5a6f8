"""Whether a policy became better: answers before and after on the same prompts, and a verdict.

The proxy is the reward model that trained the policy; the gold is another judge, which did not. A
policy that has learnt what people want raises both; one that has learnt to please the proxy raises
the proxy alone (Gao, Schulman and Hilton 2022, "Scaling Laws for Reward Model Overoptimization",
arXiv:2210.10760).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.evaluation.stats.bootstrap import Estimate, clustered, clustered_mean, ratio
from rmexp.evaluation.stats.significance import (
    ALPHA,
    MIN_CLUSTERS,
    Difference,
    paired_difference,
)


@dataclass(frozen=True)
class Measured:
    """Numbers of a policy's answers; each prompt has the same number of them.

    Attributes:
        prompts_N: index of the prompt of each answer.
        values: name -> (N,) one number an answer, NaN where there is none.
    """

    prompts_N: np.ndarray
    values: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Change:
    """A mean before and after, with intervals over prompts, and the paired test of its change."""

    name: str
    before: Estimate
    after: Estimate
    difference: Difference

    @property
    def direction(self) -> int:
        """+1 or -1 where it changed significantly, else 0."""
        clear = self.difference.p <= ALPHA
        return int(np.sign(self.difference.value)) if clear else 0


@dataclass(frozen=True)
class PolicyEffect:
    """What the training of a policy changed.

    Attributes:
        changes: name -> change of its mean: rewards by judge, `tokens`, `cut`, `distinct_2`.
        estimates: name -> estimate: `JUDGE_win_rate` of the answers after over those before;
            `JUDGE_at_equal_length`, the gain that lengths do not explain; `kl`, the divergence of
            an answer from the initial policy in nats.
    """

    changes: Mapping[str, Change]
    estimates: Mapping[str, Estimate]

    def metrics(self, split: str) -> dict[str, float]:
        """All numbers by name, with their bounds where there are any."""
        found: dict[str, float] = {}
        for name, change in self.changes.items():
            d = change.difference
            for end, (value, low, high) in (
                ("before", change.before),
                ("after", change.after),
                ("change", (d.value, d.low, d.high)),
            ):
                key = f"{split}/{name}_{end}"
                found |= {key: value, f"{key}_low": low, f"{key}_high": high}
            found[f"{split}/{name}_change_p"] = d.p
        for name, one in self.estimates.items():
            found |= one.named(f"{split}/{name}")
        return {name: value for name, value in found.items() if value == value}


def policy_effect(
    before: Measured, after: Measured, judges: Sequence[str], kl_N: np.ndarray
) -> PolicyEffect:
    """Compare the answers of two policies to the same prompts.

    Args:
        judges: the values that are rewards, `proxy` and maybe `gold`.
        kl_N: (N,) divergence of each answer of the new policy from the initial one, in nats.
    """
    estimates = {f"{name}_win_rate": win_rate(before, after, name) for name in judges}
    for name in judges:
        estimates[f"{name}_at_equal_length"] = gain_at_equal_length(before, after, name, "tokens")
    estimates["kl"] = clustered_mean(kl_N, after.prompts_N)
    return PolicyEffect({one.name: one for one in changes(before, after)}, estimates)


def changes(before: Measured, after: Measured) -> Iterator[Change]:
    """The change of each value; prompts that lack it before or after are left out."""
    for name, values_N in before.values.items():
        one, other = _means(values_N, before.prompts_N), _means(after.values[name], after.prompts_N)
        both = sorted(one.keys() & other.keys())
        if not both:
            continue
        prompts_P = np.array(both)
        before_P, after_P = (np.array([means[p] for p in both]) for means in (one, other))
        yield Change(
            name,
            clustered_mean(before_P, prompts_P),
            clustered_mean(after_P, prompts_P),
            paired_difference(after_P, before_P, prompts_P),
        )


def _means(values_N: np.ndarray, prompts_N: np.ndarray) -> dict[int, float]:
    """Prompt -> the mean of its values that are numbers."""
    known = np.isfinite(values_N)
    return {int(p): float(values_N[known & (prompts_N == p)].mean()) for p in set(prompts_N[known])}


def win_rate(before: Measured, after: Measured, name: str) -> Estimate:
    """Share of pairs (answer after, answer before) of a prompt that the former wins; ties half."""
    shares, prompts = [], []
    for prompt in sorted(set(after.prompts_N) & set(before.prompts_N)):
        new, old = (
            side.values[name][(side.prompts_N == prompt) & np.isfinite(side.values[name])]
            for side in (after, before)
        )
        if len(new) and len(old):
            gaps = new[:, None] - old[None, :]
            shares.append(float((gaps > 0).mean() + 0.5 * (gaps == 0).mean()))
            prompts.append(prompt)
    return clustered_mean(np.array(shares), np.array(prompts), span=(0, 1))


def gain_at_equal_length(before: Measured, after: Measured, name: str, length: str) -> Estimate:
    """The change of a value that the change of lengths does not explain.

    The coefficient of `after` in the least-squares fit of the value on prompt, `after` and length:
    what would be left of the gain if the answers had kept their lengths, as far as the value is
    linear in them.
    """
    prompts_N = np.concatenate([before.prompts_N, after.prompts_N])
    y, x = (
        np.concatenate([side.values[key] for side in (before, after)]) for key in (name, length)
    )
    new = np.repeat([0.0, 1.0], [len(before.prompts_N), len(after.prompts_N)])
    known = np.isfinite(y) & np.isfinite(x)
    prompts_N = prompts_N[known]
    y, x, new = (_centred(column[known], prompts_N) for column in (y, x, new))
    columns = np.stack([new * new, new * x, x * x, new * y, x * y], axis=1)

    def coefficient(sums: np.ndarray) -> np.ndarray:
        nn, nx, xx, ny, xy = (sums[..., k] for k in range(5))
        flat = xx <= 1e-9 * np.maximum(1.0, np.abs(nx))  # all answers of a prompt are equally long
        return np.where(flat, ratio(ny, nn), ratio(xx * ny - nx * xy, xx * nn - nx * nx))

    return clustered(columns, prompts_N, coefficient)


def _centred(values_N: np.ndarray, groups_N: np.ndarray) -> np.ndarray:
    _, member = np.unique(groups_N, return_inverse=True)
    means = np.bincount(member, weights=values_N) / np.bincount(member)
    return values_N - means[member]


def distinct_n(tokens: Sequence[Sequence[int]], n: int = 2) -> float:
    """Share of distinct n-grams among all n-grams of some answers; NaN without any.

    Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models",
    arXiv:1510.03055, over the answers to one prompt.
    """
    grams = [tuple(ids[k : k + n]) for ids in tokens for k in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def verdict(proxy: Change, gold: Change | None, control: bool) -> list[str]:
    """Sentences on what the training did, the main one first.

    Args:
        proxy, gold: the changes of their means on held-out prompts; None: there was no gold.
        control: the rewards were shuffled, so that there was nothing to learn.
    """
    count = proxy.difference.prompts
    sentences = [_main_sentence(proxy, gold)]
    if count < MIN_CLUSTERS:
        sentences.append(
            f"{count} held-out prompts cannot show a change: {MIN_CLUSTERS} are the fewest with "
            "which a test can be significant."
        )
    if control:
        learnt = (
            "so that this change is no effect of the reward"
            if proxy.direction
            else "and there was nothing to learn"
        )
        sentences.append(f"This is a control: the rewards were shuffled across prompts, {learnt}.")
    return sentences


def _main_sentence(proxy: Change, gold: Change | None) -> str:
    if gold is None:
        moved = {1: "rose", 0: "did not change significantly", -1: "fell"}[proxy.direction]
        return (
            f"The proxy {moved} ({_shown(proxy)}), and no gold tells whether the answers are "
            "better: give task.gold."
        )
    found = {
        (1, 1): "The proxy rose ({proxy}), and gold rose too ({gold}): a judge that did not train "
        "the policy prefers its new answers. Gold is a model too: read some of them.",
        (
            1,
            0,
        ): "The proxy rose ({proxy}) and gold did not ({gold}): what the policy learnt pleases "
        "the proxy, and is no improvement that gold can see.",
        (
            1,
            -1,
        ): "The proxy rose ({proxy}) and gold fell ({gold}): the policy is overoptimised, and "
        "worse than before.",
        (0, 0): "Neither the proxy ({proxy}) nor gold ({gold}) moved significantly: the training "
        "changed nothing that can be seen.",
        (0, 1): "The proxy did not move significantly ({proxy}), but gold rose ({gold}).",
        (0, -1): "The proxy did not move significantly ({proxy}), but gold fell ({gold}): the "
        "training did harm.",
        (-1, 1): "The proxy fell ({proxy}), but gold rose ({gold}).",
        (-1, 0): "The proxy fell ({proxy}): the training did not optimise it; gold did not move "
        "significantly ({gold}).",
        (-1, -1): "The proxy fell ({proxy}), and gold too ({gold}): the training did harm.",
    }[proxy.direction, gold.direction]
    return found.format(proxy=_shown(proxy), gold=_shown(gold))


def _shown(change: Change) -> str:
    d = change.difference
    interval = "" if d.low != d.low else f" [{d.low:+.3f}, {d.high:+.3f}]"
    return f"{d.value:+.3f}{interval}, p {max(d.p, 0.0001):.2g}"
