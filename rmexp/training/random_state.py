"""The random states that training may draw from, for checkpoints."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """The state of every generator of this process, as types that `weights_only` loads.

    Of GPUs only the one in use counts: a run may resume where there are fewer.
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    python = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [name, torch.tensor(np.asarray(keys).astype(np.int64)), *rest],
        "python": [python[0], list(python[1]), python[2]],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
