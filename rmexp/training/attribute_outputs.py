"""The end of a run with head=attributes: weights learnt on val, and what is reported of each."""

from typing import Any

import numpy as np
import torch

from rmexp.core.errors import note_fallback
from rmexp.evaluation.attributes import (
    LearntWeights,
    correlations,
    learn_weights,
)
from rmexp.models.reward_head import HEAD_RECORD
from rmexp.models.reward_model import last_layer
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.lightning_module import RewardModule


class AttributeOutputs:
    """The outputs of a trained head, in the order in which the end of a run needs them.

    Args:
        module: whose outputs of val are known.
        head: its head.
    """

    def __init__(self, module: RewardModule, head: Any) -> None:
        self.module, self.head = module, head
        self.learnt: LearntWeights | None = None

    def learn_weights(self) -> None:
        """Learn the weights of the outputs on val, and give val the rewards that they make."""
        module = self.module
        scored = module.scored("val")
        found = learn_weights(scored)
        if not found.weights_K.any():
            note_fallback(
                "head.weights=learned: no attribute tells val's preferences better than chance, so "
                "that all have the same weight."
            )
            return
        if np.isnan(found.intervals_K_2).any():
            note_fallback(
                "head.weights=learned: all preferences of val are of one prompt, so that the "
                "learnt weights have no intervals: give more rows, or declare weights."
            )
        self.learnt = found
        weights_K = torch.tensor(found.weights_K, dtype=torch.float32)
        self.head.combine_K.copy_(weights_K)
        module.rewards = {
            item: (np.array(outputs, dtype=np.float32) @ weights_K.numpy()).tolist()
            for item, outputs in module.outputs.values.items()
        }

    def record(self, split: str, run: RunDirectory) -> dict[str, Any]:
        """Record the head, and what is known of the split that was scored last; returns that."""
        combine, learnt = self.head.combine_K.tolist(), self.learnt
        intervals = [[None, None]] * len(combine)
        if learnt is not None and not np.isnan(learnt.intervals_K_2).any():
            intervals = learnt.intervals_K_2.tolist()
        sets = self.module.attribute_sets(split)
        facts = {
            "learnt": learnt is not None,
            "weights": {
                name: [weight, *bounds]
                for name, weight, bounds in zip(self.head.names, combine, intervals, strict=True)
            },
            "set": split,
            "rated": list(sets),
            "correlations": correlations(sets),
        }
        record = {"kind": self.head.kind, "names": list(self.head.names), "combine": combine}
        run.write_json(HEAD_RECORD, record)
        run.update(attributes=facts)
        return facts


def attribute_outputs(module: RewardModule) -> AttributeOutputs | None:
    """Those of the module's head; None if it has no attributes."""
    head = last_layer(module.model)
    return AttributeOutputs(module, head) if head.kind == "attributes" else None
