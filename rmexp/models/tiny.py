"""A tiny random model for tests and dry runs."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
import transformers
from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from torch import nn

from rmexp.models.layout_probe import RequestedLayout
from rmexp.models.provenance import Provenance
from rmexp.models.reward_model import prepare_model, seeded_weights


@dataclass(frozen=True)
class Tiny:
    """A random decoder of a few thousand weights with a byte tokenizer, for tests and dry runs.

    Args:
        hidden: width, a multiple of 8.
        layers: number of layers.
        dropout: attention dropout probability.
        layout: see `layout_probe.choose_layout`.
        gradient_checkpointing, compile: see `Pretrained`.
        seed: of the random weights (the head is seeded by the run).
    """

    hidden: Annotated[int, Gt(0), MultipleOf(8)]
    layers: Annotated[int, Gt(0)]
    dropout: Annotated[float, Ge(0), Le(1)]
    layout: RequestedLayout
    gradient_checkpointing: bool
    compile: bool
    seed: Annotated[int, Ge(0), Lt(2**63)]

    def check(self) -> None:
        """Nothing can be missing."""

    @property
    def name(self) -> str:
        return "tiny"

    def provenance(self) -> Provenance:
        """None: the weights are random."""
        return Provenance()

    def load_tokenizer(self) -> Any:
        """One token per byte, and the tokens of ChatML."""
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
        config = self._config(len(tokenizer))
        with seeded_weights(self.seed):
            model = transformers.LlamaForSequenceClassification(config)
        return prepare_model(model, tokenizer, seed, fresh_head=True)

    def skeleton(self) -> nn.Module:
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


CHATML = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n' }}{%- endfor -%}"
)
