"""What runs of a sweep have in common of their models: frozen weights, and what probes found."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmexp.core.errors import collect_fallbacks, note_fallback
from rmexp.models.reward_model import draw_head, find_head


class ModelCache:
    """What this process knows of the models that it opened, for the next run that opens the same.

    Weights that `tune` leaves as they are belong to all runs at once; those that train are each
    run's own. With `tune=full` no run has weights of another: a file of weights is mapped into
    memory, so that what no run changed is there once by the system's own means.

    Args:
        keeps: for the next run; a run by itself has none.

    Attributes:
        proved: directories of kept states that were found to give the model's rewards, see
            `frozen.recall`.
    """

    def __init__(self, keeps: bool = True) -> None:
        self.keeps = keeps
        self.proved: set[Path] = set()
        self._model: Any = None
        self._frozen: list[Any] = []
        self._key, self._seed = "", 0
        self._probed: dict[str, tuple[Any, list[str]]] = {}

    @property
    def shares(self) -> bool:
        """Are there weights for the next run?"""
        return self._model is not None

    def load(self, source: Any, tokenizer: Any, seed: int, tune: Any) -> Any:
        """A model whose parameters need gradients as `tune` (None: as `source`) has it.

        It equals one that is loaded anew, bit for bit.
        """
        if tune is None:
            return source.load_model(tokenizer, seed)
        key = _key(source, tokenizer, tune)
        if self.shares and key == self._key and (seed == self._seed or self._model.only_head_drawn):
            model = _over(self._model, self._frozen)
            # A run takes the frozen weights to its device; what trains was copied before it.
            model.to(self._frozen[0].device)
            if model.fresh_head:
                draw_head(find_head(model)[1], seed)
            tune(model, seed)
            return model
        self._model, self._frozen = None, []  # before the next one takes memory
        model = source.load_model(tokenizer, seed)
        twin = _over(model, list(model.parameters())) if key and self.keeps else None
        tune(model, seed)
        if twin is not None:
            # Of the same parameters, so that these say which train. Noted now, as a run may change
            # what they say.
            self._frozen = [p for p in twin.parameters() if not p.requires_grad]
        if self._frozen:
            self._model, self._key, self._seed = _over(twin, self._frozen), key, seed
        return model

    def once(self, probe: Callable[[], Any], source: Any, tokenizer: Any, *of: Any) -> Any:
        """What `probe` finds, or found in an earlier run; its fallbacks are told to each run.

        Args:
            source, tokenizer, of: all that this depends on. The seed is not among it: whether a
                model can be used in some way is a question of its kind and its weights.
        """
        key = _key(source, tokenizer, *of)
        found = self._probed.get(key)
        if found is None:
            told: list[str] = []
            with collect_fallbacks(told.append):
                found = probe(), told
            if key:
                self._probed[key] = found
        for sentence in found[1]:
            note_fallback(sentence)
        return found[0]


def _key(source: Any, tokenizer: Any, *more: Any) -> str:
    """Equal for models that differ in what their seed drew at most; empty where that cannot be
    told, as for classes of somebody's own that do not say what they are made of."""
    if not all(dataclasses.is_dataclass(one) or isinstance(one, str) for one in (source, *more)):
        return ""
    return f"{source} {len(tokenizer)} {tokenizer.pad_token_id} {more}"


def _over(model: Any, shared: list[Any]) -> Any:
    """Another model that has the `shared` parameters in common with this one, and copies of the
    others; None where it holds what cannot be copied."""
    try:
        return copy.deepcopy(model, {id(parameter): parameter for parameter in shared})
    except (RuntimeError, TypeError):
        return None
