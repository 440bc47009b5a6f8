"""The metric that selects the best checkpoint."""

import dataclasses

import numpy as np

from rmexp.config.compose import suggest
from rmexp.core.errors import UserError
from rmexp.data.comparison_data import ComparisonData
from rmexp.evaluation.metric_values import compute_metrics
from rmexp.evaluation.metrics import monitored_metrics
from rmexp.evaluation.scored_set import eval_labels
from rmexp.training.trainer import TrainerSettings


def resolve_monitor(trainer: TrainerSettings, data: ComparisonData) -> TrainerSettings:
    """The settings with `auto` resolved: accuracy if val has pairs, else what its ratings allow.

    Raises:
        UserError: a validation of these rows does not have the monitor.
    """
    val = data.splits["val"]
    rng = np.random.default_rng(0)
    rewards = {
        int(row): rng.random(len(ratings)).tolist()
        for row, ratings in zip(val, data.rows.select(val)["ratings"], strict=True)
    }
    scored = eval_labels(data.rows, val).with_rewards(rewards)
    known = ["loss", *compute_metrics(scored, intervals=False)]
    if trainer.monitor == "auto":
        best = next(m.name for m in monitored_metrics() if m.monitor == "auto" and m.name in known)
        return dataclasses.replace(trainer, monitor=f"val/{best}")
    if trainer.monitor.removeprefix("val/") not in known:
        close = suggest(trainer.monitor, [f"val/{name}" for name in known])
        subsets = sorted(name for name in known if "/" in name)
        raise UserError(
            f"trainer.monitor={trainer.monitor}: these validation rows do not have it{close}"
            + (f"; of subsets they have {', '.join(subsets)}." if subsets else ".")
        )
    return trainer
