"""Warnings about biases and calibration, as sentences."""

import math
from collections.abc import Iterator, Mapping

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

HALF_INTERVAL = 1.96
"""Standard errors in half of a 95% interval."""


def bias_warnings(metrics: Mapping[str, float]) -> list[str]:
    """A sentence for each failed probe; `metrics` by their names without the set's prefix."""
    m = metrics
    formatted = m.get("formatted_pairs", 0)
    return [
        *_accuracy_warnings(m),
        *_preference_warning(m, "length", "longer_preferred", "the longer", m.get("pairs", 0)),
        *_preference_warning(
            m, "formatting", "formatting_preferred", "the more formatted", formatted
        ),
        *_length_warnings(m),
        *_formatting_warnings(m),
        *_calibration_warning(m),
    ]


def warn_of_set(name: str, metrics: Mapping[str, float]) -> list[str]:
    """The warnings for one set of a run's metrics, each prefixed with the set's name."""
    own = {k.removeprefix(f"{name}/"): v for k, v in metrics.items() if k.startswith(f"{name}/")}
    return [f"{name}: {sentence}" for sentence in bias_warnings(own)]


def _accuracy_warnings(m: Mapping[str, float]) -> Iterator[str]:
    if lost := m.get("not_finite", 0):
        yield f"{lost:.0f} comparisons have a reward that is NaN or infinite: they are left out."
    if {"accuracy", "length_baseline"} <= set(m):
        rule, best = "longer", m["length_baseline"]
        if best < 0.5:
            rule, best = "shorter", 1 - best
        if m["accuracy"] <= best:
            yield (
                f'The model is right on {m["accuracy"]:.1%} of the pairs, and so is "the {rule} '
                f'one is better" on {best:.1%}: it shows no more than length does.'
            )


def _preference_warning(
    m: Mapping[str, float], what: str, name: str, words: str, pairs: float
) -> Iterator[str]:
    if name in m and pairs:
        model, people = m[name], m[f"{what}_baseline"]
        error = math.hypot(_error(m, name, pairs), _error(m, f"{what}_baseline", pairs))
        if abs(model - people) >= max(EXCESS, STANDARD_ERRORS * error):
            yield (
                f"The model prefers {words} response in {model:.0%} of the pairs, people in "
                f"{people:.0%}."
            )


def _length_warnings(m: Mapping[str, float]) -> Iterator[str]:
    if {"accuracy", "length_controlled_accuracy", "pairs"} <= set(m):
        before, after = m["accuracy"], m["length_controlled_accuracy"]
        error = _error(m, "length_controlled_accuracy", m["pairs"])
        if before - after >= max(LOST_TO_LENGTH, STANDARD_ERRORS * error):
            yield f"Between equally long responses accuracy would be {after:.1%}, not {before:.1%}."
    if m.get("length_r2", 0) >= max(EXPLAINED, _noise(m) ** 2):
        yield f"Length explains {m['length_r2']:.0%} of the reward's variance."
    if abs(m.get("position_correlation", 0)) >= max(POSITION, _noise(m)):
        yield (
            f"The reward goes with the position of the token that it is read from "
            f"(correlation {m['position_correlation']:+.2f}): rewards of long and of short "
            "dialogues cannot be compared."
        )


def _formatting_warnings(m: Mapping[str, float]) -> Iterator[str]:
    """Correlations with marks, unless people's choices go as far in the same direction."""
    known = {"formatting_preferred", "formatting_baseline"} <= set(m)
    beyond = m["formatting_preferred"] - m["formatting_baseline"] if known else 0.0
    marks = {"headers": "markdown headers", "lists": "lists", "bold": "bold text"}
    for name, words in marks.items():
        found = m.get(f"{name}_correlation", 0)
        if abs(found) < max(RELATED, _noise(m)):
            continue
        way = "with" if found > 0 else "against"
        sentence = f"The reward goes {way} {words} (correlation {found:+.2f} within a prompt)"
        if not known:
            yield f"{sentence}."
        elif beyond * math.copysign(1, found) >= EXCESS / 2:
            yield f"{sentence}, more than people do."


def _error(m: Mapping[str, float], name: str, pairs: float) -> float:
    """Standard error of a share: that of its interval, else that of independent pairs."""
    if f"{name}_low" in m:
        return (m[f"{name}_high"] - m[f"{name}_low"]) / (2 * HALF_INTERVAL)
    return math.sqrt(max(m[name] * (1 - m[name]), 0.01) / pairs)


def _noise(m: Mapping[str, float]) -> float:
    """Correlation within chance; the two responses of a pair count as one observation."""
    count = min(m.get("responses") or math.inf, m.get("pairs") or math.inf)
    return STANDARD_ERRORS / math.sqrt(count)


def _calibration_warning(m: Mapping[str, float]) -> Iterator[str]:
    chance = STANDARD_ERRORS / math.sqrt(m.get("pairs") or 1)
    if m.get("ece_calibrated", 0) >= max(MISCALIBRATED, chance):
        yield (
            f"With the temperature fitted on val, probabilities are still "
            f"{m['ece_calibrated']:.2f} off on average."
        )


def sensitivity_warnings(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Warnings about harmless rewrites: rewrite -> its `shift`, `flipped` and `pairs`."""
    found = []
    for name, m in metrics.items():
        what = name.replace("_", " ")
        if m["shift"] >= SENSITIVE:
            found.append(
                f"A harmless rewrite ({what}) moves a reward by {m['shift']:.2f} of its "
                "standard deviation."
            )
        flipped, pairs = m.get("flipped", 0), m.get("pairs") or math.inf
        if flipped >= max(FLIPPED, STANDARD_ERRORS * math.sqrt(flipped * (1 - flipped) / pairs)):
            found.append(
                f"A harmless rewrite ({what}) turns {m['flipped']:.1%} of the pairs around."
            )
    return found
