"""Hydra's sweeper for rmexp. Hydra takes plugins from packages named `hydra_plugins` alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OnceLoader(ConfigLoaderImpl):
    """Composes a sweep's jobs as the loader that it stands for, each choice of groups once.

    Args:
        loader: Hydra's.
        directories: a job's overrides -> its directory's name, whichever number a launcher gives.
    """

    def __init__(self, loader: Any, directories: Mapping[tuple[str, ...], str]) -> None:
        super().__init__(loader.get_search_path())
        self.directories = directories
        self._composer: Any = None

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """The configuration of one job of the sweep."""
        from rmexp.config.grid import Composer

        if self._composer is None:
            load = super().load_sweep_config
            self._composer = Composer(lambda words: load(master_config, list(words)))
        config: DictConfig = self._composer(sweep_overrides)
        config.hydra.sweep.subdir = self.directories[tuple(sweep_overrides)]
        return config


class Planned(Sweeper):
    """Launches the cells that stand in `sweep.json` of the sweep's directory, in their order.

    rmexp composes, checks and numbers them before Hydra starts (`runner.sweep_plan`). The launcher
    gets those that are left to do, and heads that train together as one job.

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
        from rmexp.runner import entry
        from rmexp.runner.sweep_plan import read_plan
        from rmexp.runner.workers import GroupedTask

        self.config = config
        self.plan = read_plan(Path(config.hydra.sweep.dir))
        directories = {tuple(cell.overrides): cell.directory for cell in self.plan.cells}
        self.hydra_context = HydraContext(
            config_loader=OnceLoader(hydra_context.config_loader, directories),
            callbacks=hydra_context.callbacks,
        )
        self.groups = entry.groups
        if self.groups:
            task_function = GroupedTask(task_function, self.groups)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Launch all cells at once: a launcher that works in parallel has the choice."""
        done = {cell.number for cell in self.plan.cells if self.plan.state(cell).status == "done"}
        for number in sorted(done):
            print(f"job {number}: done before: reused")
        by_others = {cell.number for group in self.groups.values() for cell, _ in group.members[1:]}
        left = [cell for cell in self.plan.cells if cell.number not in done | by_others]
        if not left:
            return []
        returns = self.launcher.launch([cell.overrides for cell in left], initial_job_idx=0)
        for one in returns:
            _ = one.return_value  # raises what Hydra caught; what fails in a job, that has recorded
        return [returns]
