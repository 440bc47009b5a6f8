"""Where reward models come from: a directory, the hub, a GGUF file, a run, or a seed."""

import functools
import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import gguf
import huggingface_hub
import torch
import transformers
from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from torch import nn

from rmexp import templates
from rmexp.caching import made_once
from rmexp.errors import UserError
from rmexp.model import DROPOUTS, last_layer, prepare
from rmexp.tuning import load_trained_state, merge

Layout = Literal["auto", "tree", "padded"]


@dataclass(frozen=True)
class Pretrained:
    """A model from a directory or the hub.

    Args:
        path: directory or hub id.
        gguf_file: name of a GGUF file in it; converted once and cached as safetensors.
        revision: hub revision (branch, tag or commit).
        trust_remote_code: run code that the model's repository brings along.
        attn_implementation: Hugging Face's name of an attention kernel; None takes its default.
        dropout: probability of every dropout that the model has; 0 turns them off, None keeps its
            own. Above 0 rows are padded: responses would share the masks of their trunk.
        layout: see `layout.choose_layout`.
        gradient_checkpointing: keep less of the forward pass in memory and compute it again.
        compile: compile the layers with `torch.compile`, once for all lengths.
        cache: directory for converted weights.
    """

    path: str
    gguf_file: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    attn_implementation: str | None = None
    dropout: Annotated[float, Ge(0), Lt(1)] | None = None
    layout: Layout = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    cache: str = "~/.cache/rmexp"

    def check(self) -> None:
        """Refuse a path that is no directory and cannot be a hub id.

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
        """The tokenizer, as its authors left it.

        Raises:
            UserError: there is none, or the hub does not answer.
        """
        with _loading(self.path, "a tokenizer"):
            return transformers.AutoTokenizer.from_pretrained(self._source(), **self._options())

    def load_model(self, tokenizer: Any, seed: int) -> nn.Module:
        """The reward model in fp32, embeddings grown to the tokenizer, the head kept or seeded.

        Raises:
            UserError: no sequence-classification form, several labels, or not loadable.
        """
        with _loading(self.path, "a model with a sequence-classification form"), _seeded(seed):
            config = self._config()
            model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
                self._source(),
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # a head of another size is refused below, in words
                attn_implementation=self.attn_implementation,
                **self._options(),
            )
        inside = model.base_model_prefix + "."
        missing = sorted(  # encoders that were trained on masked words come without their pooler
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
        prepare(model, tokenizer, seed, fresh)
        name, _ = last_layer(model)
        model.only_head_drawn &= all(key.startswith(f"{name}.") for key in info["missing_keys"])
        return model

    def skeleton(self) -> nn.Module:
        """The model without its weights, to ask about its parts before it is loaded."""
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
        """The model's configuration, with one label and the dropout that was asked for."""
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
            return str(_converted(folder, self.gguf_file, Path(self.cache).expanduser()))
        return str(folder) if folder.exists() else self.path

    @property
    def name(self) -> str:
        """A short name for tables and cards."""
        return Path(self.gguf_file or self.path).name.removesuffix(".gguf")


@dataclass(frozen=True)
class Tiny:
    """A random decoder of a few thousand weights with a byte tokenizer, for tests and dry runs.

    Args:
        hidden: width, a multiple of 8.
        layers: number of layers.
        dropout: attention dropout probability.
        layout: see `layout.choose_layout`.
        gradient_checkpointing, compile: see `Pretrained`.
        seed: of the random weights (the head is seeded by the run).
    """

    hidden: Annotated[int, Gt(0), MultipleOf(8)] = 32
    layers: Annotated[int, Gt(0)] = 2
    dropout: Annotated[float, Ge(0), Le(1)] = 0.0
    layout: Layout = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    seed: int = 0

    def check(self) -> None:
        """Nothing can be missing."""

    @property
    def name(self) -> str:
        """A short name for tables and cards."""
        return "tiny"

    def load_tokenizer(self) -> Any:
        """One token a byte, plus ChatML's."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        vocabulary = {token: n for n, token in enumerate(specials + alphabet)}
        inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        inner.add_special_tokens(specials)
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=inner,
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            chat_template=CHATML,
        )

    def load_model(self, tokenizer: Any, seed: int) -> nn.Module:
        """A random Llama with a fresh head."""
        config = self._config(len(tokenizer))
        with _seeded(self.seed):
            model = transformers.LlamaForSequenceClassification(config)
        return prepare(model, tokenizer, seed, fresh_head=True)

    def skeleton(self) -> nn.Module:
        """The model without its weights, to ask about its parts before it is loaded."""
        with torch.device("meta"):
            return transformers.LlamaForSequenceClassification(self._config(vocabulary=8))

    def _config(self, vocabulary: int) -> Any:
        return transformers.AutoConfig.for_model(
            "llama",
            vocab_size=vocabulary,
            hidden_size=self.hidden,
            intermediate_size=2 * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            attention_dropout=self.dropout,
            max_position_embeddings=4096,
            num_labels=1,
        )


@dataclass(frozen=True)
class Trained:
    """A run's best checkpoint, for runs that have no export.

    Args:
        base: where the run's model came from.
        weights: Lightning checkpoint of the run: what trained.
        tune: the run's trainable part, see `tuning`.
        layout, gradient_checkpointing, compile: see `Pretrained`.
    """

    base: Any
    weights: str
    tune: Any
    layout: Layout = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False

    def load_tokenizer(self) -> Any:
        """The base's tokenizer."""
        return self.base.load_tokenizer()

    def load_model(self, tokenizer: Any, seed: int) -> nn.Module:
        """The base with the run's weights.

        Raises:
            UserError: the tokenizer's template is not the one that it was trained with.
        """
        model = self.base.load_model(tokenizer, seed)
        stored = torch.load(self.weights, map_location="cpu", weights_only=True, mmap=True)
        if stored["fingerprints"]["template"] != templates.fingerprint(tokenizer):
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
        model.fresh_head = False
        return model

    @property
    def name(self) -> str:
        """A short name for tables and cards."""
        return self.base.name


CHATML = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n' }}{%- endfor -%}"
)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """New weights are drawn by `seed`, and nobody else's random numbers change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Let transformers parse a GGUF file's header once: it does so anew for the tokenizer, the
    configuration and the weights, and maps names anew for every module, for twenty seconds."""
    before = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, function in before.items():
        setattr(gguf, name, functools.cache(function))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(gguf, name, function)


def _converted(folder: Path, gguf_file: str, cache: Path) -> Path:
    """A GGUF file as safetensors and a tokenizer, converted at first use."""
    source = folder / gguf_file
    if not source.is_file():
        raise UserError(f"model.gguf_file={gguf_file}: not in {folder}.")
    with open(source, "rb") as stream:
        home = (
            cache
            / "models"
            / f"{source.stem}-{hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"
        )
    with made_once(home, "config.json") as aside:
        if aside is not None:
            print(f"Converting {gguf_file} to safetensors (once, ten seconds) ...", flush=True)
            _convert(folder, gguf_file, aside)
    return home


def _convert(folder: Path, gguf_file: str, home: Path) -> None:
    with warnings.catch_warnings(), _parsed_once():
        warnings.simplefilter("ignore")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
        model = transformers.AutoModel.from_pretrained(
            folder, gguf_file=gguf_file, dtype=torch.float32
        )
    # A model read from GGUF counts as quantised, which plain safetensors cannot say.
    del model.config.quantization_config
    model.hf_quantizer = None
    tokenizer.save_pretrained(home)
    model.save_pretrained(home)


class _loading:
    """Turn what loaders raise for a wrong path into one sentence."""

    def __init__(self, path: str, wanted: str) -> None:
        self.path, self.wanted = path, wanted

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (OSError, ValueError, ImportError)):
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise UserError(
                f"model.path={self.path} does not give {self.wanted}: {first}"
            ) from error
