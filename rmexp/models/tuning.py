"""Which part of a reward model trains: all of it, LoRA, its last layers, or the head alone."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rmexp.batching.collate import Collate, unlabelled_row
from rmexp.config.compose import suggest
from rmexp.core.errors import UserError
from rmexp.models.reward_model import backbone, compute_rewards, head_parameters, random_tokens


@dataclass(frozen=True)
class Full:
    """tune=full: every weight of the model trains."""

    cache_gib: ClassVar[float] = 0.0  # nothing stays as it is

    def check(self, source: Any) -> None:
        """Nothing can be wrong."""

    def __call__(self, model: nn.Module, seed: int) -> None:
        """Set which parameters need gradients."""
        model.requires_grad_(True)


@dataclass(frozen=True)
class Head:
    """tune=head: the reward head alone; an encoder's pooler counts as a part of it.

    Args:
        cache_gib: most that the states under the head may take on disk, GiB; 0 computes them anew
            in each step.
    """

    cache_gib: Annotated[float, Ge(0)]

    def check(self, source: Any) -> None:
        """Every reward model has a head."""

    def __call__(self, model: nn.Module, seed: int) -> None:
        """Set which parameters need gradients."""
        _only(model, _head(model))


@dataclass(frozen=True)
class LastLayers:
    """tune=last_layers: the last layers, and what stands above them (final norm, head).

    Args:
        n: how many layers.
        cache_gib: most that the states under them may take on disk, GiB; 0 computes them anew in
            each step.
    """

    n: Annotated[int, Gt(0)]
    cache_gib: Annotated[float, Ge(0)]

    def check(self, source: Any) -> None:
        """Refuse a model with fewer layers, before its weights are loaded.

        Args:
            source: where the model comes from; its `skeleton()` has the parts without weights.

        Raises:
            UserError: says how many there are.
        """
        self._layers(source.skeleton())

    def __call__(self, model: nn.Module, seed: int) -> None:
        """Set which parameters need gradients.

        Raises:
            UserError: the model has fewer layers.
        """
        last = self._layers(model)
        _only(model, [*_above(model, last[-1]), *(p for one in last for p in one.parameters())])

    def _layers(self, model: nn.Module) -> list[nn.Module]:
        found = layers(model)
        if len(found) < self.n:
            has = f"{len(found)} layers" if found else "no list with one entry a layer"
            raise UserError(f"tune.n={self.n}: {type(model).__name__} has {has}.")
        return found[-self.n :]


@dataclass(frozen=True)
class LoRA:
    """tune=lora: low-rank updates of linear layers (Hu et al. 2021, arXiv:2106.09685), by peft.

    A weight W becomes W + (alpha / rank) B A, with B at zero at first; the head (and an encoder's
    pooler) trains fully. `merge` adds the updates up before a model is exported.

    Args:
        rank: of B A.
        alpha: numerator of the scale; None takes twice the rank, so that the scale is 2.
        dropout: probability that an input of A is dropped. Above 0 rows are padded, as with any
            other dropout: responses would share the masks of their trunk.
        target_modules: `all-linear`, all linear layers below the head; names of linear layers, or
            ends of names (`q_proj`); None takes peft's choice for the model's family.
    """

    cache_gib: ClassVar[float] = 0.0  # adapters stand in all layers

    rank: Annotated[int, Gt(0)]
    alpha: Annotated[int, Gt(0)] | None
    dropout: Annotated[float, Ge(0), Lt(1)]
    target_modules: Literal["all-linear"] | list[str] | None

    def check(self, source: Any) -> None:
        """Try it on the model's parts, before its weights are loaded.

        Args:
            source: where the model comes from; its `skeleton()` has the parts without weights.

        Raises:
            UserError: there is no such module, or its weights are read past LoRA.
        """
        self(source.skeleton(), 0)

    def __call__(self, model: nn.Module, seed: int) -> None:
        """Put the adapters in place, drawn by `seed`, and set which parameters need gradients.

        Raises:
            UserError: there is no such module, or its weights are read past LoRA.
        """
        import peft  # two seconds that other runs need not wait

        # Where it sees a configuration of transformers, peft takes targets of its own choice for
        # some mixtures of experts: in a plain module it adapts what it is told to.
        plain = nn.Module()
        plain.model = model
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha or 2 * self.rank,
            lora_dropout=self.dropout,
            target_modules=[f"model.{name}" for name in self._targets(model)],
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(seed)
            # It finds out by itself, layer by layer, that GPT-2 has its weights transposed.
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
            peft.inject_adapter_in_model(config, plain)
        for parameter in _head(model):
            parameter.requires_grad_(True)

    def _targets(self, model: Any) -> list[str]:
        """Full names of the layers to adapt."""
        start = model.base_model_prefix + "."
        names = [
            name
            for name, module in model.named_modules()
            if type(module) in (nn.Linear, Conv1D)  # some routers inherit, and give a tuple
            and name.startswith(start)
            and not _in_pooler(name)
        ]
        chosen = self._chosen(model, names)
        for name in chosen:
            mixer, _, end = name.rpartition(".")
            # As peft does: Mamba's kernels take the weight of this one, and never call the layer.
            if end == "out_proj" and {"A_log", "D"} <= set(model.get_submodule(mixer)._parameters):
                raise UserError(
                    f"tune.target_modules: {type(model).__name__} reads the weights of {end} past "
                    "LoRA; name the other layers."
                )
        return chosen

    def _chosen(self, model: Any, names: list[str]) -> list[str]:
        kind = type(model).__name__
        if not names:
            raise UserError(f"tune=lora: {kind} has no linear layers below its head.")
        if self.target_modules == "all-linear":
            return names
        wanted = list(self.target_modules or ())
        if self.target_modules is None:
            family = _familys(model.config.get_text_config().model_type)
            wanted = [end for end in family if _ending(names, end)]
            if not wanted:
                raise UserError(
                    f"tune.target_modules=null: peft has no choice of layers for {kind}; take "
                    "all-linear, or name them."
                )
        for end in wanted:
            if not _ending(names, end):
                known = sorted({name.rsplit(".", 1)[-1] for name in names})
                raise UserError(
                    f"tune.target_modules: {kind} has no linear layer {end}{suggest(end, known)}; "
                    f"it has {', '.join(known)}."
                )
        chosen = {name for end in wanted for name in _ending(names, end)}
        return [name for name in names if name in chosen]


def _familys(model_type: str) -> Iterable[str]:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as FAMILIES

    return FAMILIES.get(model_type, ())


def _ending(names: Iterable[str], end: str) -> list[str]:
    return [name for name in names if f".{name}".endswith(f".{end}")]


def _in_pooler(name: str) -> bool:
    return ".pooler." in f".{name}"


def _only(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Let these train, and nothing else."""
    chosen = list(parameters)
    model.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)


def _head(model: nn.Module) -> list[nn.Parameter]:
    """The head, and the pooler of encoders, which may be as new as the head is."""
    pooler = (p for name, p in backbone(model).named_parameters() if _in_pooler(name))
    return [*head_parameters(model), *pooler]


def _above(model: Any, layer: nn.Module) -> list[nn.Parameter]:
    """What the reward needs beyond a layer's output: the final norm, the head.

    Found by cutting the graph at that output, since families neither name nor order them alike.
    """

    def cut(module: nn.Module, given: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return output.detach()
        return tuple(part.detach() if isinstance(part, Tensor) else part for part in output)

    model.requires_grad_(True)
    below = {id(p) for p in model.get_input_embeddings().parameters()}
    parameters = [p for p in model.parameters() if id(p) not in below]
    handle = layer.register_forward_hook(cut)
    try:
        gradients = torch.autograd.grad(_reward(model), parameters, allow_unused=True)
    finally:
        handle.remove()
    return [p for p, g in zip(parameters, gradients, strict=True) if g is not None]


@torch.enable_grad()
def _reward(model: Any) -> Tensor:
    """Of a dozen tokens."""
    model.eval()
    tokens = random_tokens(model)
    batch = Collate(0, len(tokens), "padded")([unlabelled_row([tokens])]).batches[0]
    return compute_rewards(model, batch.to(next(model.parameters()).device)).sum()


def layers(model: Any) -> list[nn.Module]:
    """The layers of the backbone, lowest first; none where it has no list of them."""
    count = model.config.get_text_config().num_hidden_layers
    lists = (m for m in backbone(model).modules() if isinstance(m, nn.ModuleList))
    return list(next((one for one in lists if len(one) == count), []))


def frozen_layers(model: nn.Module) -> int:
    """How many of the lowest layers are frozen, with all that lies below them (embeddings).

    What the highest of them gives for a text is the same all through training.
    """
    needed: list[bool] = []

    def note(module: nn.Module, given: Any, output: Any) -> None:
        hidden = output if isinstance(output, Tensor) else output[0]
        needed.append(hidden.requires_grad)

    handles = [layer.register_forward_hook(note) for layer in layers(model)]
    try:
        _reward(model)
    finally:
        for handle in handles:
            handle.remove()
    return [*needed, True].index(True)


def trained_state(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """A module's state without its frozen parameters, which are the base's."""
    frozen = _frozen(module)
    return {name: value for name, value in state.items() if name not in frozen}


def load_trained_state(module: nn.Module, state: Mapping[str, Any], strict: bool = True) -> Any:
    """The inverse of `trained_state`: frozen parameters stay as they are.

    Raises:
        RuntimeError: another name is missing, or there is one too many.
    """
    load = nn.Module.load_state_dict
    found = load(module, state, strict=False)
    missing = sorted(set(found.missing_keys) - _frozen(module))
    if strict and (missing or found.unexpected_keys):
        raise RuntimeError(
            f"The weights are of another model: missing {missing[:3]}, "
            f"not known {found.unexpected_keys[:3]}."
        )
    return found


def _frozen(module: nn.Module) -> set[str]:
    named = module.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if not parameter.requires_grad}


def merge(model: nn.Module) -> None:
    """Add LoRA's updates to the base weights and leave a plain model."""
    adapted = [(n, m) for n, m in model.named_modules() if hasattr(m, "get_base_layer")]
    for name, module in adapted:
        adapter: Any = module
        adapter.merge()
        model.set_submodule(name, adapter.get_base_layer())
