"""Probes and calibration in plain words: what is bad, and how it shows."""

import math
from collections.abc import Mapping

EXCESS = 0.10
"""The model may prefer the longer (or more formatted) response of a pair this much more often than
people do: beyond it a tenth of all decisions is about length, whatever is said."""


LOST_TO_LENGTH = 0.05
"""Accuracy may lose this much once length is held equal. It is the half-width of a 95% interval at
400 pairs: less cannot be told from chance on usual sets."""


EXPLAINED = 0.25
"""Share of the reward's variance that length may explain: a correlation of 0.5, which Cohen 1988
calls large."""


POSITION = 0.5
"""The same of the place of the pooled token, over all prompts."""


RELATED = 0.3
"""Correlation with formatting that is looked at: Cohen's medium."""


SENSITIVE = 0.25
"""Mean change of a reward by a harmless rewrite, in deviations of the reward."""


FLIPPED = 0.05
"""Share of pairs whose order a harmless rewrite of both sides may turn."""


MISCALIBRATED = 0.10
"""Calibration error after the temperature: no one scale makes the probabilities true."""


STANDARD_DEVIATIONS = 2.5
"""A difference must be this many standard errors beyond 0 as well: few pairs prove nothing."""


def bias_warnings(metrics: Mapping[str, float]) -> list[str]:
    """A sentence for each probe that is bad; `metrics` by their names without the set's prefix."""
    found = [
        *_not_finite(metrics),
        *_no_better_than_length(metrics),
        *_prefers(metrics, "length", "longer_preferred", "the longer", metrics.get("pairs", 0)),
        *_prefers(
            metrics,
            "formatting",
            "formatting_preferred",
            "the more formatted",
            metrics.get("formatted_pairs", 0),
        ),
        *_lost_to_length(metrics),
        *_explained(metrics),
        *_formatting(metrics),
        *_miscalibrated(metrics),
    ]
    return found


def warn_of_set(name: str, metrics: Mapping[str, float]) -> list[str]:
    """The verdicts on one set of a run's metrics, each with the set's name in front."""
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
    if abs(model - people) < max(EXCESS, STANDARD_DEVIATIONS * error):
        return []
    return [
        f"The model prefers {words} response in {model:.0%} of the pairs, people in {people:.0%}."
    ]


def _lost_to_length(m: Mapping[str, float]) -> list[str]:
    if not {"accuracy", "length_controlled_accuracy", "pairs"} <= set(m):
        return []
    before, after = m["accuracy"], m["length_controlled_accuracy"]
    error = math.sqrt(max(before * (1 - before), 0.01) / m["pairs"])
    if before - after < max(LOST_TO_LENGTH, STANDARD_DEVIATIONS * error):
        return []
    return [f"Between equally long responses accuracy would be {after:.1%}, not {before:.1%}."]


def _explained(m: Mapping[str, float]) -> list[str]:
    said = []
    if m.get("length_r2", 0) >= max(EXPLAINED, _noise(m) ** 2):
        said.append(f"Length explains {m['length_r2']:.0%} of the reward's variance.")
    if abs(m.get("position_correlation", 0)) >= max(POSITION, _noise(m)):
        said.append(
            f"The reward goes with the place of the token that it is read from "
            f"(correlation {m['position_correlation']:+.2f}): rewards of long and of short "
            "dialogues cannot be compared."
        )
    return said


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
    """A correlation that chance may bring about; two responses of a pair are one observation."""
    count = min(m.get("responses") or math.inf, m.get("pairs") or math.inf)
    return STANDARD_DEVIATIONS / math.sqrt(count)


def _miscalibrated(m: Mapping[str, float]) -> list[str]:
    if m.get("ece_calibrated", 0) < max(
        MISCALIBRATED, STANDARD_DEVIATIONS / math.sqrt(m.get("pairs") or 1)
    ):
        return []
    return [
        f"With the temperature fitted on val, probabilities are still {m['ece_calibrated']:.2f} "
        "off on average."
    ]


def sensitivity_verdicts(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The same of harmless rewrites: rewrite -> its `shift`, `flipped` and `pairs`."""
    said = []
    for name, m in metrics.items():
        what = name.replace("_", " ")
        if m["shift"] >= SENSITIVE:
            said.append(
                f"A harmless rewrite ({what}) moves a reward by {m['shift']:.2f} of its deviation."
            )
        flipped, pairs = m.get("flipped", 0), m.get("pairs") or math.inf
        if flipped >= max(
            FLIPPED, STANDARD_DEVIATIONS * math.sqrt(flipped * (1 - flipped) / pairs)
        ):
            said.append(
                f"A harmless rewrite ({what}) turns {m['flipped']:.1%} of the pairs around."
            )
    return said
