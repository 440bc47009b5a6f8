"""Which runs are merged, and what they must share for it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from rmexp.analysis.compare.runs import Run, find_runs, value_on_command_line
from rmexp.config.compose import build
from rmexp.config.trust import Trust
from rmexp.core.errors import UserError, note_fallback
from rmexp.inference.checkpoint import find_weights, saved_config, trained_head
from rmexp.losses import Loss
from rmexp.models.merged_weights import MergedWeights

SHARED = ("model", "tune", "head")
"""Groups that all members must have alike."""

NO_MATTER = (
    *("layout", "gradient_checkpointing", "compile", "attn_implementation", "trust_remote_code"),
    *("dropout", "cache", "cache_gib", "card"),
)
"""Keys of these groups that do not change which weights there are."""


@dataclass(frozen=True)
class Member:
    """A run to merge: with its configuration and the facts of `environment.json`."""

    run: Run
    config: DictConfig
    environment: Mapping[str, Any]

    @property
    def home(self) -> Path:
        """Its directory."""
        return self.run.path


def find_members(
    runs: str | Sequence[str], setting: str | Sequence[str] | None, trust: Trust
) -> list[Member]:
    """The runs that `runs` names, of one setting where it names a sweep.

    Args:
        setting: words KEY=VALUE that tell the setting of a sweep from its others.

    Raises:
        UserError: fewer than two runs, one that is not done or was not trained, or several settings
            of a sweep.
    """
    words = [setting] if isinstance(setting, str) else list(map(str, setting or ()))
    found: list[Run] = []
    for text in [runs] if isinstance(runs, str) else map(str, runs):
        inside, left_out = find_runs([text])
        if left_out:
            first = left_out[0]
            raise UserError(f"runs={text}: {first.name} cannot be merged, {first.why}.")
        for one in inside:
            if one.trained != one.path:
                raise UserError(f"runs={text}: {one.name} is no trained run, which has weights.")
        found += _of_one_setting(text, inside, words)
    members = {one.path.resolve(): one for one in found}
    if len(members) < 2:
        raise UserError(f"task=merge needs two runs or more; runs={runs} names {len(members)}.")
    return [_member(run, trust) for run in members.values()]


def _member(run: Run, trust: Trust) -> Member:
    environment = json.loads((run.path / "environment.json").read_bytes())
    return Member(run, saved_config(run.path, trust), environment)


def _of_one_setting(text: str, runs: Sequence[Run], words: Sequence[str]) -> list[Run]:
    """The runs of a sweep that have the words on their command lines; they differ in seed alone."""
    chosen = [run for run in runs if all(_has(run, word) for word in words)]
    settings: dict[tuple[Any, ...], Run] = {}
    for run in chosen:
        settings.setdefault(run.identity("seed"), run)
    if len(settings) == 1:
        return chosen
    choices = _choices(runs)
    if not chosen:
        raise UserError(
            f"task.setting={' '.join(words)}: no run of {text} has it; {', or '.join(choices)}."
        )
    raise UserError(
        f"runs={text} has {len(settings)} settings, and the seeds of one are merged: name it, "
        f"{', or '.join(choices)}."
    )


def _has(run: Run, word: str) -> bool:
    key, _, value = word.partition("=")
    return str(value_on_command_line(run, key)) == value


def _choices(runs: Sequence[Run]) -> list[str]:
    """`task.setting=...` for each setting: the keys of command lines in which they differ."""
    given = sorted(frozenset().union(*(run.given for run in runs)) - {"seed"})
    values = {key: [str(value_on_command_line(run, key)) for run in runs] for key in given}
    differ = [key for key in given if len(set(values[key])) > 1]
    words = [[f"{key}={values[key][n]}" for key in differ] for n in range(len(runs))]
    each = [f"task.setting=[{','.join(one)}]" if len(one) > 1 else one and f"task.setting={one[0]}"
            for one in words]  # fmt: skip
    return list(dict.fromkeys(one for one in each if one)) or ["its runs one by one: runs=[A,B]"]


def check_members(members: Sequence[Member], own_data: bool) -> None:
    """Check that the members share what the mean of weights needs; loads nothing.

    Args:
        own_data: the merged model is evaluated on the rows of the first one's data.

    Raises:
        UserError: names the member and what differs from the first.
    """
    first, *others = members
    for other in others:
        if difference := _difference(first, other, own_data):
            raise UserError(f"{other.home} cannot be merged with {first.home}: {difference}.")
    for one in members:
        member_source(one)


def _difference(first: Member, other: Member, own_data: bool) -> str | None:
    for group in SHARED:
        one, two = (m.config.get(group) or {} for m in (first, other))
        for key in sorted({*one, *two} - set(NO_MATTER)):
            if one.get(key) != two.get(key):
                return f"its {group}.{key} is {two.get(key)}, not {one.get(key)}"
    names = [(trained_head(m.home) or {}).get("names") for m in (first, other)]
    if names[0] != names[1]:
        return f"its attributes are {_listed(names[1])}, not {_listed(names[0])}"
    templates = [m.environment.get("template", {}).get("fingerprint") for m in (first, other)]
    if templates[0] != templates[1]:
        return f"its template or tokenizer is another ({templates[1]}, not {templates[0]})"
    data = [m.environment.get("data_fingerprint") for m in (first, other)]
    if own_data and data[0] != data[1]:
        return (
            "it was trained on other data, whose rows may be among the test rows of the first; "
            "name rows that neither has seen (data=jsonl data.path=FILE)"
        )
    return None


def _listed(names: Sequence[str] | None) -> str:
    return ", ".join(names or ()) or "none"


def member_source(member: Member) -> Any:
    """What loads the weights of a member: its export, or its best checkpoint.

    Raises:
        UserError: it has neither.
    """
    config = member.config
    trust_remote_code = bool(config.model.get("trust_remote_code", False))
    try:
        node = find_weights(member.home, config, config.model.layout, trust_remote_code)
    except UserError:
        raise UserError(
            f"{member.home} has no weights any more, neither export/ nor checkpoints/best.ckpt: "
            "leave it out, or train it again."
        ) from None
    return build(OmegaConf.create(node))


def shares(members: Sequence[Member], weights: Sequence[float] | None) -> list[float]:
    """The share of each member, which have the sum 1.

    Raises:
        UserError: there are not as many weights as members, or all are 0.
    """
    if weights is None:
        return [1 / len(members)] * len(members)
    if len(weights) != len(members) or sum(weights) <= 0:
        names = ", ".join(one.run.name for one in members)
        raise UserError(
            f"task.weights={list(weights)}: give a weight for each of the {len(members)} runs "
            f"({names}), with a sum above 0."
        )
    return [weight / sum(weights) for weight in weights]


def merge_loss(loss: Loss, members: Sequence[Member], shares: Sequence[float]) -> bool:
    """Give the loss the mean of what the members' losses learnt (cut points, tie width).

    Returns:
        False if a member does not say what it learnt: then the loss cannot be computed.
    """
    names = set(loss.state())
    files = [one.home / "loss.json" for one in members if names]
    states = [json.loads(file.read_bytes()) if file.is_file() else {} for file in files]
    for one, state in zip(members, states, strict=False):
        if set(state) != names:
            note_fallback(f"{one.home} has no loss.json of this loss: the loss is left out.")
            return False
    loss.take_state(
        {name: np.average([s[name] for s in states], 0, list(shares)).tolist() for name in names}
    )
    return True


def merged_weights(base: Any, members: Sequence[Member], shares: Sequence[float]) -> MergedWeights:
    """The source of the merged model.

    Args:
        base: source of the model that all members were trained from.
    """
    sources = {
        one.run.name: (member_source(one), share)
        for one, share in zip(members, shares, strict=True)
    }
    return MergedWeights(base=base, members=sources, layout=base.layout)
