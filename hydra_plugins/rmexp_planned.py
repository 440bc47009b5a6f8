"""Hydra's sweeper for rmexp. Hydra takes plugins from packages named `hydra_plugins` alone."""

import json
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OnceLoader(ConfigLoaderImpl):
    """Composes a sweep's jobs as the loader that it stands for, each choice of groups once."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader.get_search_path())
        self._composer: Any = None

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """The configuration of one job of the sweep."""
        from rmexp.sweep.composing import Composer

        if self._composer is None:
            load = super().load_sweep_config
            self._composer = Composer(lambda words: load(master_config, list(words)))
        return self._composer(sweep_overrides)


class Planned(Sweeper):
    """Launches the cells that stand in `sweep.json` of the sweep's directory, in their order.

    rmexp composes, checks and numbers them before Hydra starts (`rmexp.sweep.plan`); the launcher
    may be any that Hydra knows.

    Args:
        params: key -> values, as Hydra's own sweeper has them; the plan is made of them.
    """

    def __init__(self, params: Any = None) -> None:
        super().__init__()
        self.params = params

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra hands over what it knows; the launcher is made of it."""
        from hydra.core.plugins import Plugins

        hydra_context = HydraContext(
            config_loader=OnceLoader(hydra_context.config_loader), callbacks=hydra_context.callbacks
        )
        self.config, self.hydra_context = config, hydra_context
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Launch all cells at once: a launcher that works in parallel has the choice."""
        plan = json.loads((Path(self.config.hydra.sweep.dir) / "sweep.json").read_text())
        cells = [cell["overrides"] for cell in plan["cells"]]
        return [self.launcher.launch(cells, initial_job_idx=0)]
