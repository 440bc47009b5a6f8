"""Faster imports of large libraries that serve more than reward models.

Where they find scipy and matplotlib, torchmetrics imports them for metrics of sound and for plots,
and transformers imports scipy for losses of object detection. transformers also reads all its
models' files, twice. For each class of wandb.sdk.launch, pydantic looks among all modules for that
of each frame of the stack. Together that was a quarter of the time until the first step of a run.

In a command's process torchmetrics thus draws no plots, and transformers' vision models have no
losses of object detection. A program that imports rmexp is not affected.
"""

import functools
import importlib.metadata
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

UNUSED = {
    "torchmetrics": ("matplotlib", "scipy"),
    "transformers": ("scipy",),
    "wandb.sdk.launch": (),
}
"""Libraries -> packages that they use only for what no command needs."""

SCANNER, READER = "transformers.utils.import_utils", "create_import_structure_from_path"
"""The function that reads models' files; its cache is too small for all of them."""


class LeanFinder(MetaPathFinder):
    """Finds the modules that are imported in another way here."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's usual spec with another loader; None for other modules."""
        if name not in UNUSED and name != SCANNER:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _LeanLoader(name, spec.loader.path)
        return spec

    @classmethod
    def install(cls) -> None:
        """Use it for all imports of this process from now on."""
        if not any(isinstance(finder, cls) for finder in sys.meta_path):
            sys.meta_path.insert(0, cls())


class _LeanLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        with _not_installed(UNUSED.get(self.name, ())), _modules_of_frames():
            super().exec_module(module)
        if self.name == SCANNER and hasattr(module, READER):
            setattr(module, READER, functools.cache(getattr(module, READER).__wrapped__))


@contextmanager
def _not_installed(packages: Sequence[str]) -> Iterator[None]:
    """In the block, these packages seem not to be installed."""
    loaded = {name: sys.modules.get(name) for name in packages}
    installed = importlib.metadata.distribution

    def distribution(distribution_name: str) -> importlib.metadata.Distribution:
        if distribution_name in loaded:
            raise importlib.metadata.PackageNotFoundError(distribution_name)
        return installed(distribution_name)

    sys.modules.update(dict.fromkeys(loaded))  # type: ignore[arg-type]  # None: not to be found
    importlib.metadata.distribution = distribution
    try:
        yield
    finally:
        importlib.metadata.distribution = installed
        for name, module in loaded.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


@contextmanager
def _modules_of_frames() -> Iterator[None]:
    """In the block, `inspect.getmodule` finds the module of a frame by its name."""
    search = inspect.getmodule

    def getmodule(item: Any, *file: Any) -> ModuleType | None:
        if inspect.isframe(item):
            return sys.modules.get(item.f_globals["__name__"])
        return search(item, *file)

    inspect.getmodule = getmodule  # type: ignore[assignment]
    try:
        yield
    finally:
        inspect.getmodule = search
