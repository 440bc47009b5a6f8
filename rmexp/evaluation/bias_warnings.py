"""Warnings about biases and calibration, as sentences."""

import math
from collections.abc import Mapping

EXCESS = 0.10
"""How much more often than people the model may prefer the longer (or more formatted) response.
Beyond it, a tenth of all decisions depends on length alone."""

LOST_TO_LENGTH = 0.05
"""Accuracy that may be lost at equal length: the half-width of a 95% interval at 400 pairs, below
which a loss is within the noise of usual sets."""

EXPLAINED = 0.25
"""Share of the reward's variance that length may explain: a correlation of 0.5, large by Cohen
1988."""

POSITION = 0.5
"""Correlation with the position of the pooled token, over all prompts: the same bound."""

RELATED = 0.3
"""Correlation with formatting that is reported: medium by Cohen 1988."""

SENSITIVE = 0.25
"""Mean change of a reward under a harmless rewrite, in standard deviations of the reward."""

FLIPPED = 0.05
"""Share of pairs whose order may change under a harmless rewrite of both responses."""

MISCALIBRATED = 0.10
"""Calibration error after the temperature: no single scale makes the probabilities true."""

STANDARD_ERRORS = 2.5
"""A difference must also be this many standard errors from 0."""


def bias_warnings(metrics: Mapping[str, float]) -> list[str]:
    """A sentence for each failed probe; `metrics` by their names without the set's prefix."""
    m = metrics
    formatted = m.get("formatted_pairs", 0)
    return [
        *_not_finite(m),
        *_no_better_than_length(m),
        *_prefers(m, "length", "longer_preferred", "the longer", m.get("pairs", 0)),
        *_prefers(m, "formatting", "formatting_preferred", "the more formatted", formatted),
        *_lost_to_length(m),
        *_explained(m),
        *_formatting(m),
        *_miscalibrated(m),
    ]


def warn_of_set(name: str, metrics: Mapping[str, float]) -> list[str]:
    """The warnings for one set of a run's metrics, each prefixed with the set's name."""
    own = {k.removeprefix(f"{name}/"): v for k, v in metrics.items() if k.startswith(f"{name}/")}
    return [f"{name}: {sentence}" for sentence in bias_warnings(own)]


def _not_finite(m: Mapping[str, float]) -> list[str]:
    if not (lost := m.get("not_finite", 0)):
        return []
    return [f"{lost:.0f} comparisons have a reward that is NaN or infinite: they are left out."]


def _no_better_than_length(m: Mapping[str, float]) -> list[str]:
    if not {"accuracy", "length_baseline"} <= set(m):
        return []
    rule, best = ("longer", m["length_baseline"])
    if best < 0.5:
        rule, best = "shorter", 1 - best
    if m["accuracy"] > best:
        return []
    return [
        f'The model is right on {m["accuracy"]:.1%} of the pairs, and so is "the {rule} one is '
        f'better" on {best:.1%}: it shows no more than length does.'
    ]


def _prefers(m: Mapping[str, float], what: str, name: str, words: str, pairs: float) -> list[str]:
    if name not in m or not pairs:
        return []
    model, people = m[name], m[f"{what}_baseline"]
    error = math.sqrt((model * (1 - model) + people * (1 - people)) / pairs)
    if abs(model - people) < max(EXCESS, STANDARD_ERRORS * error):
        return []
    return [
        f"The model prefers {words} response in {model:.0%} of the pairs, people in {people:.0%}."
    ]


def _lost_to_length(m: Mapping[str, float]) -> list[str]:
    if not {"accuracy", "length_controlled_accuracy", "pairs"} <= set(m):
        return []
    before, after = m["accuracy"], m["length_controlled_accuracy"]
    error = math.sqrt(max(before * (1 - before), 0.01) / m["pairs"])
    if before - after < max(LOST_TO_LENGTH, STANDARD_ERRORS * error):
        return []
    return [f"Between equally long responses accuracy would be {after:.1%}, not {before:.1%}."]


def _explained(m: Mapping[str, float]) -> list[str]:
    found = []
    if m.get("length_r2", 0) >= max(EXPLAINED, _noise(m) ** 2):
        found.append(f"Length explains {m['length_r2']:.0%} of the reward's variance.")
    if abs(m.get("position_correlation", 0)) >= max(POSITION, _noise(m)):
        found.append(
            f"The reward goes with the place of the token that it is read from "
            f"(correlation {m['position_correlation']:+.2f}): rewards of long and of short "
            "dialogues cannot be compared."
        )
    return found


def _formatting(m: Mapping[str, float]) -> list[str]:
    more = m.get("formatting_preferred", 1) - m.get("formatting_baseline", 0)
    if abs(more) < EXCESS / 2:
        return []
    marks = {"headers": "markdown headers", "lists": "lists", "bold": "bold text"}
    return [
        f"The reward goes with {words} (correlation {m[f'{name}_correlation']:+.2f} within a "
        "prompt), more than people do."
        for name, words in marks.items()
        if abs(m.get(f"{name}_correlation", 0)) >= max(RELATED, _noise(m))
    ]


def _noise(m: Mapping[str, float]) -> float:
    """Correlation within chance; the two responses of a pair count as one observation."""
    count = min(m.get("responses") or math.inf, m.get("pairs") or math.inf)
    return STANDARD_ERRORS / math.sqrt(count)


def _miscalibrated(m: Mapping[str, float]) -> list[str]:
    if m.get("ece_calibrated", 0) < max(
        MISCALIBRATED, STANDARD_ERRORS / math.sqrt(m.get("pairs") or 1)
    ):
        return []
    return [
        f"With the temperature fitted on val, probabilities are still {m['ece_calibrated']:.2f} "
        "off on average."
    ]


def sensitivity_verdicts(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Warnings about harmless rewrites: rewrite -> its `shift`, `flipped` and `pairs`."""
    found = []
    for name, m in metrics.items():
        what = name.replace("_", " ")
        if m["shift"] >= SENSITIVE:
            found.append(
                f"A harmless rewrite ({what}) moves a reward by {m['shift']:.2f} of its deviation."
            )
        flipped, pairs = m.get("flipped", 0), m.get("pairs") or math.inf
        if flipped >= max(FLIPPED, STANDARD_ERRORS * math.sqrt(flipped * (1 - flipped) / pairs)):
            found.append(
                f"A harmless rewrite ({what}) turns {m['flipped']:.1%} of the pairs around."
            )
    return found
