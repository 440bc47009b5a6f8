"""Which part of a reward model trains: all of it, LoRA matrices, the last layers, or the head."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rmexp.batching.collate import BatchLayout, Collate, unlabelled_row
from rmexp.config.compose import suggest
from rmexp.core.errors import UserError
from rmexp.models.frozen_weights import reads_weights
from rmexp.models.reward_model import backbone, compute_rewards, head_parameters, random_tokens


class TrainablePart:
    """Which part of a model trains; called with a model and a seed, it sets `requires_grad`."""

    load_in_4bit: bool = False

    def check(self, source: Any) -> None:
        """Check the setting on `source.skeleton()`, before the model's weights are loaded.

        Raises:
            UserError: the model does not have the part.
        """

    def describe(self, model: nn.Module) -> str:
        """Which part of `model` trains, in words."""
        raise NotImplementedError


@dataclass(frozen=True)
class Full(TrainablePart):
    """tune=full: every weight trains."""

    cache_gib: ClassVar[float] = 0.0  # nothing is frozen

    def __call__(self, model: nn.Module, seed: int) -> None:
        model.requires_grad_(True)

    def describe(self, model: nn.Module) -> str:
        return "all"


@dataclass(frozen=True)
class Head(TrainablePart):
    """tune=head: only the reward head trains, with the pooler of an encoder.

    Args:
        cache_gib: maximum size on disk of the head's cached inputs, GiB; 0 computes them in each
            step.
    """

    cache_gib: Annotated[float, Ge(0)]

    def __call__(self, model: nn.Module, seed: int) -> None:
        _train_only(model, _head_and_pooler(model))

    def describe(self, model: nn.Module) -> str:
        return "the head"


@dataclass(frozen=True)
class LastLayers(TrainablePart):
    """tune=last_layers: the last layers, the final norm and the head train.

    Args:
        n: number of layers.
        cache_gib: maximum size on disk of the cached activations below them, GiB; 0 computes them
            in each step.
    """

    n: Annotated[int, Gt(0)]
    cache_gib: Annotated[float, Ge(0)]

    def check(self, source: Any) -> None:
        self._layers(source.skeleton())

    def __call__(self, model: nn.Module, seed: int) -> None:
        last = self._layers(model)
        above = _parameters_above(model, last[-1])
        _train_only(model, [*above, *(p for layer in last for p in layer.parameters())])

    def describe(self, model: nn.Module) -> str:
        count = len(layers(model))
        return f"the last {self.n} of {count} layers, final norm and head; tune=full: all"

    def _layers(self, model: nn.Module) -> list[nn.Module]:
        found = layers(model)
        if len(found) < self.n:
            has = f"{len(found)} layers" if found else "no list with one entry a layer"
            raise UserError(f"tune.n={self.n}: {type(model).__name__} has {has}.")
        return found[-self.n :]


@dataclass(frozen=True)
class LoRA(TrainablePart):
    """tune=lora: low-rank updates of linear layers (Hu et al. 2021, arXiv:2106.09685), by peft.

    A weight W becomes W + (alpha / rank) B A, where B starts at zero; the head (and the pooler of
    an encoder) trains fully. `trained_state.merge` adds the updates before a model is exported.

    Args:
        rank: of B A.
        alpha: numerator of the scale; None takes twice the rank.
        dropout: dropout probability of A's input. Above 0 the padded layout is used: in a tree,
            responses would share the dropout masks of their prefix.
        target_modules: `all-linear` for all linear layers below the head; names of linear layers
            or ends of names (`q_proj`); None takes peft's default for the model's family.
        load_in_4bit: frozen layers are held in 4 bits (QLoRA), see `hold_in_4bit`.
    """

    cache_gib: ClassVar[float] = 0.0  # every layer may have an adapter

    rank: Annotated[int, Gt(0)]
    alpha: Annotated[int, Gt(0)] | None
    dropout: Annotated[float, Ge(0), Lt(1)]
    target_modules: Literal["all-linear"] | list[str] | None
    load_in_4bit: bool = field()  # not the base class's value

    def check(self, source: Any) -> None:
        self(source.skeleton(), 0)

    def __call__(self, model: nn.Module, seed: int) -> None:
        """Insert the adapters, drawn by `seed`, and set which parameters need gradients.

        Raises:
            UserError: a target module does not exist or does not support LoRA.
        """
        import peft  # takes two seconds

        # peft overrides the targets of some mixture-of-experts models if it sees their
        # configuration; in a plain module it adapts the targets that it is given.
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
            # peft detects by itself that GPT-2's weights are transposed.
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
            peft.inject_adapter_in_model(config, plain)
        for parameter in _head_and_pooler(model):
            parameter.requires_grad_(True)

    def describe(self, model: nn.Module) -> str:
        return "low-rank updates and the head"

    def _targets(self, model: Any) -> list[str]:
        start = model.base_model_prefix + "."
        names = [
            name
            for name, module in model.named_modules()
            if type(module) in (nn.Linear, Conv1D)  # some routers are subclasses returning tuples
            and name.startswith(start)
            and not _in_pooler(name)
        ]
        chosen = self._chosen(model, names)
        for name in chosen:
            mixer, _, end = name.rpartition(".")
            # Like peft, which adapts Mamba's other layers.
            if end == "out_proj" and reads_weights(model.get_submodule(mixer)):
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
            from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as FAMILIES

            family = FAMILIES.get(model.config.get_text_config().model_type, ())
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


def _ending(names: Iterable[str], end: str) -> list[str]:
    return [name for name in names if f".{name}".endswith(f".{end}")]


def _in_pooler(name: str) -> bool:
    return ".pooler." in f".{name}"


def _train_only(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    chosen = list(parameters)
    model.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)


def _head_and_pooler(model: nn.Module) -> list[nn.Parameter]:
    """The head, and the pooler of encoders, whose weights may be new as well."""
    pooler = (p for name, p in backbone(model).named_parameters() if _in_pooler(name))
    return [*head_parameters(model), *pooler]


def _parameters_above(model: Any, layer: nn.Module) -> list[nn.Parameter]:
    """The parameters that the reward needs beyond a layer's output: final norm and head.

    Families neither name nor order them alike, so that they are found by their gradients with the
    layer's output detached.
    """

    def detach(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return output.detach()
        return tuple(part.detach() if isinstance(part, Tensor) else part for part in output)

    model.requires_grad_(True)
    below = {id(p) for p in model.get_input_embeddings().parameters()}
    parameters = [p for p in model.parameters() if id(p) not in below]
    handle = layer.register_forward_hook(detach)
    try:
        gradients = torch.autograd.grad(_reward(model), parameters, allow_unused=True)
    finally:
        handle.remove()
    return [p for p, g in zip(parameters, gradients, strict=True) if g is not None]


@torch.enable_grad()
def _reward(model: Any) -> Tensor:
    """The reward of a dozen random tokens."""
    model.eval()
    tokens = random_tokens(model)
    batch = Collate(0, len(tokens), BatchLayout("padded"))([unlabelled_row([tokens])]).batches[0]
    return compute_rewards(model, batch.to(next(model.parameters()).device)).sum()


def layers(model: Any) -> list[nn.Module]:
    """The layers of the backbone, lowest first; empty if it has no list of them."""
    count = model.config.get_text_config().num_hidden_layers
    lists = (m for m in backbone(model).modules() if isinstance(m, nn.ModuleList))
    return list(next((one for one in lists if len(one) == count), []))


def frozen_layers(model: nn.Module) -> int:
    """Number of the lowest layers that are frozen together with everything below them.

    The output of the highest of them for a given text stays the same during training.
    """
    needed: list[bool] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        hidden = output if isinstance(output, Tensor) else output[0]
        needed.append(hidden.requires_grad)

    handles = [layer.register_forward_hook(note) for layer in layers(model)]
    try:
        _reward(model)
    finally:
        for handle in handles:
            handle.remove()
    return [*needed, True].index(True)
