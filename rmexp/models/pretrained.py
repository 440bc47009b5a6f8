"""Reward models from a directory, the Hugging Face hub, a GGUF file or a run's checkpoint."""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import huggingface_hub
import torch
import transformers
from annotated_types import Ge, Lt
from torch import nn
from transformers.utils import cached_file

from rmexp.core.disk_errors import is_disk_full
from rmexp.core.errors import UserError
from rmexp.models.adapter import base_of, merge_adapter
from rmexp.models.first_layers import keep_first_layers, of_first_layers
from rmexp.models.gguf import convert_gguf
from rmexp.models.layout_probe import RequestedLayout
from rmexp.models.loaded_weights import check_weights, load_renamed_head, note_unused
from rmexp.models.model_files import check_folder, check_model_files, refuse_quantised
from rmexp.models.provenance import Provenance, provenance_of
from rmexp.models.reward_head import find_head
from rmexp.models.reward_model import (
    DROPOUTS,
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
        layers: number of layers that are kept, from the first; None keeps all. The final norm and
            the reward head follow the last of them.
        revision: hub revision (branch, tag or commit).
        trust_remote_code: run the code in the model's repository.
        attn_implementation: Hugging Face's name of an attention kernel; None takes the default.
        dropout: probability of all dropouts of the model; None keeps its own. Above 0 the padded
            layout is used: in a tree, responses would share the dropout masks of their prefix.
        layout: see `layout_probe.choose_layout`.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        compile: compile the layers with `torch.compile`, once for all lengths.
        cache: directory for converted weights.
        card: `base_model` and `license` for the card of an export, see `provenance_of`.
    """

    path: str
    gguf_file: str | None
    layers: Annotated[int, Ge(1)] | None
    revision: str | None
    trust_remote_code: bool
    attn_implementation: str | None
    dropout: Annotated[float, Ge(0), Lt(1)] | None
    layout: RequestedLayout
    gradient_checkpointing: bool
    compile: bool
    cache: str
    card: Mapping[str, str | None] | None = None

    key: ClassVar[str] = "model.path"
    """What the user types to name the model."""

    def check(self) -> None:
        """Refuse a path that is no possible hub id and no directory of a model that can train.

        Raises:
            UserError: names it.
        """
        folder = self._folder
        if folder.is_file():
            raise UserError(f"{self._where} is a file; give the directory that holds the model.")
        if not folder.exists() and (self.path[:1] in "./~" or self.path.count("/") > 1):
            raise UserError(f"{self._where}: there is no such directory.")
        if self.layers is not None and self._base is not None:
            raise UserError(
                f"model.layers={self.layers}: {self._where} was trained on all of its layers."
            )
        if self.gguf_file is not None or not folder.is_dir():
            return
        check_model_files(folder)
        weights = Path(self._base or folder)
        if weights.is_dir():
            check_model_files(weights)
            check_folder(weights, self._where)

    def load_tokenizer(self) -> Any:
        """The unchanged tokenizer.

        Raises:
            UserError: there is none, the hub does not answer, or the model cannot be trained.
        """
        with explained_loading(self._where, "a tokenizer"):
            self._config()
            own = self._base and any(self._folder.glob("tokenizer*"))  # an adapter's
            source = str(self._folder) if own else self._source
            return transformers.AutoTokenizer.from_pretrained(source, **self._options())

    def load_model(self, tokenizer: Any, seed: int) -> nn.Module:
        """The reward model in fp32, with embeddings for all tokens and a loaded or fresh head.

        Raises:
            UserError: no sequence-classification form, several labels, or not loadable.
        """
        source = self._source
        with explained_loading(self._where, CLASSIFIER), seeded_weights(seed):
            config = self._config()
            model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below with a clear message
                attn_implementation=self.attn_implementation,
                **self._options(),
            )
        info["unexpected_keys"] = of_first_layers(info["unexpected_keys"], self.layers)
        check_weights(info, model.base_model_prefix, self._where)
        drawn, folders = info["missing_keys"], [_downloaded(source, self.revision)]
        if self._base is not None:
            replaced, folders = merge_adapter(model, self._folder), [*folders, self._folder]
            drawn = {key for key in drawn if key.rpartition(".")[0] not in replaced}
        fresh = any(key.endswith("weight") for key in drawn)
        prepare_model(model, tokenizer, seed, fresh)
        name, head = find_head(model)
        unused = set(info["unexpected_keys"])
        for folder in folders if fresh else ():
            if loaded := load_renamed_head(head, folder, unused):
                update_facts(model, fresh_head=False)
                unused -= loaded
        note_unused(unused)
        if not all(key.startswith(f"{name}.") for key in drawn):
            update_facts(model, only_head_drawn=False)
        return model

    def skeleton(self) -> nn.Module:
        """The model without weights, to check settings before loading."""
        with explained_loading(self._where, CLASSIFIER):
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
            self._source, num_labels=1, **self._options()
        )
        refuse_quantised(config.to_dict(), self._where)
        if self.dropout is not None:
            for name in DROPOUTS & set(vars(config.get_text_config())):
                setattr(config.get_text_config(), name, self.dropout)
        if self.layers is not None:
            keep_first_layers(config.get_text_config(), self.layers, self._where)
        return config

    def _options(self) -> dict[str, Any]:
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    @functools.cached_property
    def _source(self) -> str:
        """The directory or hub id of the model, or of an adapter's base model."""
        folder = self._folder
        self.check()
        if self._base is not None:
            return self._base
        if self.gguf_file is not None and not folder.is_dir():
            wanted = [self.gguf_file, "*.json", "*.model", "*.jinja"]
            folder = Path(
                huggingface_hub.snapshot_download(
                    self.path, revision=self.revision, allow_patterns=wanted
                )
            )
        if self.gguf_file is not None:
            return str(convert_gguf(folder, self.gguf_file, Path(self.cache).expanduser()))
        return str(folder) if folder.exists() else self.path

    @property
    def name(self) -> str:
        """Of the file or directory; a cut model says so."""
        whole = Path(self.gguf_file or self.path).name.removesuffix(".gguf")
        return whole if self.layers is None else f"{whole}, first {self.layers} layers"

    def provenance(self) -> Provenance:
        """What is known of the model; of an adapter, of its base."""
        return provenance_of(self._base or self.path, self.revision, self.card)

    @property
    def _folder(self) -> Path:
        return Path(self.path).expanduser()

    @functools.cached_property
    def _base(self) -> str | None:
        """The base model of an adapter."""
        return base_of(self._folder, f"{self.key}={self.path}")

    @property
    def _where(self) -> str:
        of = f" (an adapter of {self._base})" if self._base is not None else ""
        return f"{self.key}={self.path}{of}"


@dataclass(frozen=True, kw_only=True)
class TrainedWeights:
    """A model whose weights runs have trained, from a base that has its tokenizer.

    Args:
        base: source of the model that was trained.
        layout, gradient_checkpointing, compile: see `Pretrained`.
    """

    base: Any
    layout: RequestedLayout = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False

    def load_tokenizer(self) -> Any:
        return self.base.load_tokenizer()

    @property
    def name(self) -> str:
        return self.base.name

    def provenance(self) -> Provenance:
        """That of the model that was trained."""
        return self.base.provenance()


@dataclass(frozen=True, kw_only=True)
class RunCheckpoint(TrainedWeights):
    """A run's best checkpoint, for runs that have no export.

    Args:
        weights: Lightning checkpoint of the run, with the weights that trained.
        tune: the run's trainable part, see `tuning`.
        head: the run's head, see `heads`.
    """

    weights: str
    tune: Any
    head: Any

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
        self.head.install(model, seed)
        self.tune(model, seed)
        load_trained_state(
            model, {k.removeprefix("model."): v for k, v in weights if k.startswith("model.")}
        )
        merge(model)
        model.requires_grad_(True)
        update_facts(model, fresh_head=False)
        return model


def _downloaded(source: str, revision: str | None) -> Path:
    """The directory with the files of a model, also of one from the hub."""
    return Path(str(cached_file(source, "config.json", revision=revision))).parent


CLASSIFIER = "a model with a sequence-classification form"


@contextmanager
def explained_loading(where: str, wanted: str) -> Iterator[None]:
    """Turn an error of transformers into one sentence, with the fix where it is known."""
    try:
        yield
    except Exception as error:  # also bare ones, of the tokenizers library
        if isinstance(error, UserError) or is_disk_full(error):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        fix = next((fix for part, fix in FIXES if part in str(error)), "")
        raise UserError(f"{where} does not give {wanted}: {first}{fix}") from error


FIXES = (
    (
        "trust_remote_code",
        " To run the code in its folder, which you should read before, add "
        "model.trust_remote_code=true.",
    ),
    (
        "okenizer",
        " Copy tokenizer.json and tokenizer_config.json of the model that it was made from.",
    ),
    ("adapter_config.json", " Download the adapter, and give its directory as model.path."),
)
"""Part of an error of transformers, and what to do about it."""
