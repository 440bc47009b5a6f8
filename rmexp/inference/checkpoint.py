"""Checkpoints: the configuration of their run, where their weights are, and how to load them."""

import glob
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from rmexp import __version__
from rmexp.config.compose import build, locate, option_values, without_hydra
from rmexp.config.schema import ENSEMBLE_TARGET, LINEAR_TARGET, SINGLE_PROCESS, names_files
from rmexp.config.trust import Trust, check_links, check_part, literal, read_untrusted
from rmexp.config.validate import find_targets
from rmexp.core.devices import device_name, resolve_accelerator, resolve_precision
from rmexp.core.errors import UserError
from rmexp.evaluation import calibration
from rmexp.evaluation.aggregate import Aggregate, Aggregation
from rmexp.inference.ensemble import EnsembleScorer
from rmexp.inference.scorer import Scorer, open_scorer
from rmexp.models.head_file import stored_kind
from rmexp.models.model_files import ADAPTER
from rmexp.models.reward_head import HEAD_RECORD


def saved_config(run: Path, trust: Trust) -> DictConfig:
    """The resolved configuration that a run was started with.

    Args:
        trust: what it may name besides rmexp's own classes.

    A relative path that this directory does not have is that of the directory where the run was
    started.

    Raises:
        UserError: it names something else, or was made by a version of rmexp whose classes had
            other names.
    """
    check_links(run)
    file = run / "config.yaml"
    content = read_untrusted(file)
    version = content.pop("rmexp_version", None)
    if version is None:
        raise UserError(
            f"{run} was made by rmexp before 0.2.0, whose code has another layout than this "
            f"version's ({__version__}): use that version, or train again."
        )
    environment = run / "environment.json"
    facts = _facts(environment) if environment.is_file() else {}
    for path, target in trust.own_targets(content, str(file)):
        try:
            thing = locate(path, target)
        except UserError as error:
            maker = _maker(str(version), facts.get("git_commit"))
            raise UserError(
                f"{file}: {error} The run was made by {maker}: use that, or train again."
            ) from None
        check_part(path, target, thing, str(file))
    content.setdefault("head", {"_target_": LINEAR_TARGET})
    return OmegaConf.create(literal(_located(content, Path(facts.get("directory", "")))))


def _maker(version: str, commit: Any) -> str:
    """Which code made a run that this code cannot read."""
    if version != __version__:
        return f"rmexp {version}"
    return f"another state of rmexp {version}" + (f", commit {commit}" if commit else "")


def _located(node: Any, started: Path, key: str = "") -> Any:
    if isinstance(node, dict):
        return {name: _located(value, started, f"{key}.{name}") for name, value in node.items()}
    if isinstance(node, list):
        return [_located(value, started, key) for value in node]
    if not isinstance(node, str) or not names_files(key):
        return node

    def matches(folder: Path) -> bool:
        return (folder / node).exists() or bool(glob.glob(node, root_dir=folder))

    return str(started / node) if not matches(Path()) and matches(started) else node


DEVICE_KEYS = ("trainer", *(f"trainer.{key}" for key in SINGLE_PROCESS))
"""Keys that may change when a run is resumed."""

TRUST_KEYS = ("trust", "model.trust_remote_code")
"""Keys that let the code of a run directory run."""


def resumed_config(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of the run to resume, on the devices that the command line names."""
    saved = saved_config(Path(config.resume), Trust.of(config))
    saved.resume = config.resume
    keys = [override.split("=", 1)[0] for override in overrides]
    for key in DEVICE_KEYS[1:]:
        if key in keys or "trainer" in keys:
            OmegaConf.update(saved, key, OmegaConf.select(config, key))
    return saved


def is_run(home: Path) -> bool:
    """Whether a directory is a run directory of rmexp."""
    return (home / "config.yaml").is_file() and (home / "result.json").is_file()


def inherit_config(
    config: DictConfig, overrides: Sequence[str], own_rows: bool
) -> tuple[DictConfig, dict[str, Any]]:
    """Complete the configuration with that of a checkpoint's run.

    Args:
        config: has the `checkpoint`, or several, of which the first counts. Keys that the command
            line does not set are taken from the run, and `model` loads the run's weights.
        overrides: of the command line.
        own_rows: take `data` from the run too; else only its `max_length`.

    Returns:
        The configuration, and facts: `labels`, `trained_metrics` and `trained_warnings` of the
        run, `trained_data`, the fingerprint of its data, and `trained_max_length`, its
        `data.max_length` (both None if the directory is no run), and `own_data`, whether the
        command line sets no key of `data`.
    """
    first = config.checkpoint if isinstance(config.checkpoint, str) else config.checkpoint[0]
    home = Path(first).expanduser()
    config = without_hydra(config)
    keys = _keys_of(overrides)
    facts: dict[str, Any] = {
        "labels": {},
        "trained_metrics": {},
        "trained_warnings": [],
        "trained_data": None,
        "trained_max_length": None,
        "own_data": not any(key.split(".")[0] == "data" for key in keys),
    }
    saved = saved_config(home, Trust.of(config)) if is_run(home) else None
    if saved is not None:
        _use_cache(saved, config.cache)
        old, environment = (_facts(home / f"{name}.json") for name in ("result", "environment"))
        facts |= {
            "labels": {g: label for g, label in old["labels"].items() if g not in keys},
            "trained_metrics": old.get("metrics", {}),
            "trained_warnings": old.get("verdicts", []),
            "trained_data": environment["data_fingerprint"],
            "trained_max_length": saved.data.max_length,
        }
        for group in ("loss", "head", "trainer", "template", "model"):
            config[group] = config[group] if group in keys else _merged(saved, config, group, keys)
        if "trainer" not in keys:  # one device can evaluate what several have trained
            for key, value in SINGLE_PROCESS.items():
                OmegaConf.update(config.trainer, key, value)
        if own_rows:
            config.data = config.data if "data" in keys else _merged(saved, config, "data", keys)
        elif "data.max_length" not in keys:
            config.data.max_length = saved.data.max_length
        if "seed" not in keys:
            config.seed = saved.seed
    trust = bool(config.model.get("trust_remote_code", False))
    config.model = find_weights(home, saved, config.model.layout, trust)
    if export := _templated_export(home):
        if any(key.split(".")[0] == "template" for key in keys):
            raise UserError(
                f"{export} carries the template it was trained with: leave out template."
            )
        config.template = option_values("template/tokenizer")
    return config, facts


def _keys_of(overrides: Sequence[str]) -> list[str]:
    return [override.lstrip("+~").split("=", 1)[0].split("@")[0] for override in overrides]


MEMBER_GROUPS = ("model", "template", "loss", "head", "tune", "optim", "trainer", "data")
"""Groups that merged runs bring."""


def member_config(config: DictConfig, saved: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of merged runs: their first one's, with the keys of the command line.

    It is trained as they are: `model` is their base, and not the first one's weights.
    """
    keys, config = _keys_of(overrides), without_hydra(config)
    _use_cache(saved, config.cache)
    for group in MEMBER_GROUPS:
        config[group] = config[group] if group in keys else _merged(saved, config, group, keys)
    for key, value in SINGLE_PROCESS.items():
        OmegaConf.update(config.trainer, key, value)
    config.seed = config.seed if "seed" in keys else saved.seed
    return config


def _use_cache(saved: DictConfig, cache: str) -> None:
    """Let a run that another user or machine made use the cache of this one."""
    for _, node in find_targets(saved):
        if "cache" in node:
            node.cache = cache


def _facts(file: Path) -> dict[str, Any]:
    try:
        return {"labels": {}, "data_fingerprint": None} | json.loads(file.read_bytes())
    except (OSError, ValueError, TypeError):
        raise UserError(f"{file}: missing or damaged.") from None


def _merged(saved: DictConfig, config: DictConfig, group: str, keys: Sequence[str]) -> DictConfig:
    """The run's own group, in place, with the keys of the command line."""
    node = saved[group]
    for key in keys:
        if key.startswith(f"{group}."):
            OmegaConf.update(node, key.removeprefix(f"{group}."), OmegaConf.select(config, key))
    return node


def find_export(home: Path) -> Path | None:
    """The Hugging Face directory of a run, or the directory itself if it is one."""
    files = (home / "export/config.json", home / "config.json", home / ADAPTER)
    return next((file.parent for file in files if file.is_file()), None)


def _templated_export(home: Path) -> Path | None:
    """The same, if it is an export of rmexp, whose tokenizer has the template."""
    export = find_export(home)
    return export if export is not None and (export / "rmexp.json").is_file() else None


def find_weights(
    home: Path, saved: DictConfig | None, layout: str, trust_remote_code: bool
) -> dict[str, Any]:
    """The `model` node that loads an export, a Hugging Face directory, or a run's best checkpoint.

    Args:
        home: run or Hugging Face directory.
        saved: the run's configuration, whose model the checkpoint is loaded into; None: no run.
        layout, trust_remote_code: keys of the node.

    Raises:
        UserError: there is none of them.
    """
    export, best = find_export(home), home / "checkpoints" / "best.ckpt"
    if export is not None:
        return option_values("model/hf") | {
            "path": str(export),
            "layout": layout,
            "trust_remote_code": trust_remote_code,
        }
    if saved is not None and best.is_file():
        return {
            "_target_": "rmexp.models.pretrained.RunCheckpoint",
            "base": saved.model,
            "weights": str(best),
            "tune": saved.tune,
            "head": trained_head(home) or saved.head,
            "layout": layout,
        }
    raise UserError(
        f"checkpoint={home}: neither a run with an export or a checkpoint, nor a "
        "Hugging Face directory."
    )


def has_members(home: Path) -> bool:
    """Whether a run or a Hugging Face directory has head=ensemble."""
    export, config = find_export(home), home / "config.yaml"
    if export is not None:
        return stored_kind(export) == "ensemble"
    head = read_untrusted(config).get("head", {}) if config.is_file() else {}
    return bool(head.get("_target_") == ENSEMBLE_TARGET)


def trained_head(home: Path) -> dict[str, Any] | None:
    """The `head` node of a run that recorded its outputs at its end."""
    if not (home / HEAD_RECORD).is_file():
        return None
    known = _facts(home / HEAD_RECORD)
    outputs = {key: known[key] for key in ("kind", "names", "combine")}
    return {"_target_": "rmexp.models.heads.TrainedOutputs", **outputs}


def check_ensemble(checkpoints: Sequence[str | Path]) -> None:
    """Check that there are members, and that each can be standardised; loads no model.

    Raises:
        UserError: there are none, or one is no directory or has no calibration.
    """
    if not checkpoints:
        raise UserError("checkpoint=[]: name the members: checkpoint=[RUN,RUN].")
    for one in checkpoints:
        home = Path(one).expanduser()
        if not home.is_dir():
            raise UserError(f"checkpoint={one}: there is no such directory.")
        calibration.member_scale(home)


def with_others(
    first: Scorer, checkpoints: Sequence[str], how: Aggregation, accelerator: Any, trust: Trust
) -> EnsembleScorer:
    """The ensemble of a scorer, which is the first of the checkpoints, and of the others.

    The others score in its precision and within its limit of tokens.
    """
    others = [
        load_scorer(
            one,
            precision=first.precision,
            accelerator=accelerator,
            max_length=first.max_length,
            trust_remote_code=trust.remote_code,
            trust=trust.targets,
        )
        for one in checkpoints[1:]
    ]
    for one in others:
        one.micro_batch_tokens = first.micro_batch_tokens
    return EnsembleScorer([first, *others], how)


def weights_of(home: Path) -> Path:
    """The directory or file with the weights of a run or a Hugging Face directory."""
    return find_export(home) or home / "checkpoints" / "best.ckpt"


def load_scorer(
    path: str | Path | Sequence[str | Path],
    *,
    layout: Literal["auto", "tree", "padded"] = "auto",
    precision: str | int = "auto",
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    max_length: int | None = None,
    trust_remote_code: bool = False,
    trust: Collection[str] = (),
    aggregate: Aggregate = "mean",
    lcb_lambda: float | None = None,
) -> Scorer:
    """Open a reward model to score with.

    Args:
        path: a run directory of rmexp, or a Hugging Face directory with one reward head; of a list
            the ensemble, see `EnsembleScorer`.
        layout: see `choose_layout`.
        precision: `bf16-mixed` or `32-true`; `auto` is bf16 where the hardware is fast at it.
        accelerator: `auto` is the GPU if there is one.
        max_length: tokens of a prompt and a response; None takes the run's, or else the number of
            the model's positions.
        trust_remote_code: run code from the model's directory.
        trust: names of classes outside rmexp that the run's configuration may have.
        aggregate: how the rewards of a list, or of the members of head=ensemble, become one:
            `mean`, `min` or `lcb`.
        lcb_lambda: of `lcb`, which is mean - lambda x standard deviation.

    Raises:
        UserError: there is no reward model, the run's configuration names other code, or its
            template is not the one it was trained with; a member of a list has no calibration.
    """
    if aggregate == "lcb" and lcb_lambda is None:
        raise UserError("aggregate='lcb' needs lcb_lambda.")
    if not isinstance(path, (str, Path)):
        options: Any = {
            "layout": layout,
            "precision": precision,
            "accelerator": accelerator,
            "max_length": max_length,
            "trust_remote_code": trust_remote_code,
            "trust": trust,
        }
        how = Aggregation(aggregate, lcb_lambda or 0.0)
        check_ensemble(path)
        return EnsembleScorer([load_scorer(one, **options) for one in path], how)
    home = Path(path).expanduser()
    if not home.is_dir():
        raise UserError(f"{path}: there is no such directory.")
    allowed = Trust(frozenset(trust), trust_remote_code)
    saved = saved_config(home, allowed) if is_run(home) else None
    if saved is not None:
        _use_cache(saved, option_values("model/hf")["cache"])
    source = build(OmegaConf.create(find_weights(home, saved, layout, trust_remote_code)))
    template: Any = option_values("template/tokenizer")
    if saved is not None and _templated_export(home) is None:
        template = saved.template
    tokenizer = source.load_tokenizer()
    build(OmegaConf.create(template)).install(tokenizer)
    hardware = resolve_accelerator(accelerator)
    scorer = open_scorer(
        source,
        tokenizer,
        device_name(hardware),
        resolve_precision(precision, hardware),
        layout,
        max_length or (None if saved is None else saved.data.max_length),
        calibration=calibration.load_calibration(home),
    )
    scorer.aggregate_members(None if aggregate == "mean" else aggregate, lcb_lambda or 0.0)
    return scorer
