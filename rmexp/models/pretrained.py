"""Reward models from a directory, the Hugging Face hub, a GGUF file or a run's checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import huggingface_hub
import torch
import transformers
from annotated_types import Ge, Lt
from torch import nn

from rmexp.core.errors import UserError
from rmexp.models.gguf import convert_gguf
from rmexp.models.layout_probe import RequestedLayout
from rmexp.models.model_files import check_model_files
from rmexp.models.reward_model import (
    DROPOUTS,
    find_head,
    prepare_model,
    seeded_weights,
    update_facts,
)
from rmexp.models.trained_state import load_trained_state, merge
from rmexp.templates.template import template_fingerprint


@dataclass(frozen=True)
class Pretrained:
    """A model from a directory or the hub.

    Args:
        path: directory or hub id.
        gguf_file: name of a GGUF file in it; converted once and cached as safetensors.
        revision: hub revision (branch, tag or commit).
        trust_remote_code: run the code in the model's repository.
        attn_implementation: Hugging Face's name of an attention kernel; None takes the default.
        dropout: probability of all dropouts of the model; None keeps its own. Above 0 the padded
            layout is used: in a tree, responses would share the dropout masks of their prefix.
        layout: see `layout_probe.choose_layout`.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        compile: compile the layers with `torch.compile`, once for all lengths.
        cache: directory for converted weights.
    """

    path: str
    gguf_file: str | None
    revision: str | None
    trust_remote_code: bool
    attn_implementation: str | None
    dropout: Annotated[float, Ge(0), Lt(1)] | None
    layout: RequestedLayout
    gradient_checkpointing: bool
    compile: bool
    cache: str

    def check(self) -> None:
        """Refuse a path that is neither a directory nor a possible hub id.

        Raises:
            UserError: names it.
        """
        folder = Path(self.path).expanduser()
        if folder.is_file():
            raise UserError(
                f"model.path={self.path} is a file; give the directory that holds the model."
            )
        if not folder.exists() and (self.path[:1] in "./~" or self.path.count("/") > 1):
            raise UserError(f"model.path={self.path}: there is no such directory.")

    def load_tokenizer(self) -> Any:
        """The unchanged tokenizer.

        Raises:
            UserError: there is none, or the hub does not answer.
        """
        with _loading(self.path, "a tokenizer"):
            return transformers.AutoTokenizer.from_pretrained(self._source(), **self._options())

    def load_model(self, tokenizer: Any, seed: int) -> nn.Module:
        """The reward model in fp32, with embeddings for all tokens and a loaded or drawn head.

        Raises:
            UserError: no sequence-classification form, several labels, or not loadable.
        """
        with (
            _loading(self.path, "a model with a sequence-classification form"),
            seeded_weights(seed),
        ):
            config = self._config()
            model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
                self._source(),
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below with a clear message
                attn_implementation=self.attn_implementation,
                **self._options(),
            )
        inside = model.base_model_prefix + "."
        missing = sorted(  # masked language models have no pooler
            key for key in info["missing_keys"] if key.startswith(inside) and ".pooler." not in key
        )
        if missing:
            raise UserError(
                f"model.path={self.path} lacks weights of the model: {', '.join(missing[:3])} ..."
            )
        if info["mismatched_keys"]:
            raise UserError(
                f"model.path={self.path} has a head with another number of outputs than one; "
                "rmexp trains one reward: take the checkpoint that it was made from."
            )
        fresh = any(key.endswith("weight") for key in info["missing_keys"])
        prepare_model(model, tokenizer, seed, fresh)
        name, _ = find_head(model)
        if not all(key.startswith(f"{name}.") for key in info["missing_keys"]):
            update_facts(model, only_head_drawn=False)
        return model

    def skeleton(self) -> nn.Module:
        """The model without weights, to check settings before loading."""
        with _loading(self.path, "a model with a sequence-classification form"):
            config = self._config()
            with torch.device("meta"):
                return transformers.AutoModelForSequenceClassification.from_config(
                    config,
                    dtype=torch.float32,
                    trust_remote_code=self.trust_remote_code,
                    attn_implementation=self.attn_implementation,
                )

    def _config(self) -> Any:
        """The model's configuration, with one label and the requested dropout."""
        config = transformers.AutoConfig.from_pretrained(
            self._source(), num_labels=1, **self._options()
        )
        if self.dropout is not None:
            for name in DROPOUTS & set(vars(config.get_text_config())):
                setattr(config.get_text_config(), name, self.dropout)
        return config

    def _options(self) -> dict[str, Any]:
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    def _source(self) -> str:
        folder = Path(self.path).expanduser()
        self.check()
        if self.gguf_file is not None and not folder.is_dir():
            wanted = [self.gguf_file, "*.json", "*.model", "*.jinja"]
            folder = Path(
                huggingface_hub.snapshot_download(
                    self.path, revision=self.revision, allow_patterns=wanted
                )
            )
        if self.gguf_file is not None:
            return str(convert_gguf(folder, self.gguf_file, Path(self.cache).expanduser()))
        if not folder.exists():
            return self.path
        check_model_files(folder)
        return str(folder)

    @property
    def name(self) -> str:
        return Path(self.gguf_file or self.path).name.removesuffix(".gguf")


@dataclass(frozen=True)
class RunCheckpoint:
    """A run's best checkpoint, for runs that have no export.

    Args:
        base: source of the run's model.
        weights: Lightning checkpoint of the run, with the weights that trained.
        tune: the run's trainable part, see `tuning`.
        layout, gradient_checkpointing, compile: see `Pretrained`.
    """

    base: Any
    weights: str
    tune: Any
    layout: RequestedLayout = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False

    def load_tokenizer(self) -> Any:
        return self.base.load_tokenizer()

    def load_model(self, tokenizer: Any, seed: int) -> nn.Module:
        """The base with the run's weights.

        Raises:
            UserError: the tokenizer has another template than in training.
        """
        model = self.base.load_model(tokenizer, seed)
        stored = torch.load(self.weights, map_location="cpu", weights_only=True, mmap=True)
        if stored["fingerprints"]["template"] != template_fingerprint(tokenizer):
            raise UserError(
                f"{self.weights} was trained with the template "
                f"{stored['fingerprints']['template']}, not with the one that was asked for."
            )
        weights = stored["state_dict"].items()
        self.tune(model, seed)
        load_trained_state(
            model, {k.removeprefix("model."): v for k, v in weights if k.startswith("model.")}
        )
        merge(model)
        model.requires_grad_(True)
        update_facts(model, fresh_head=False)
        return model

    @property
    def name(self) -> str:
        return self.base.name


@contextmanager
def _loading(path: str, wanted: str) -> Iterator[None]:
    """Turn a loader's error for a wrong path into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # libraries raise many kinds for files that are damaged
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"model.path={path} does not give {wanted}: {first}") from error
