"""The reward model: a Hugging Face sequence classifier with one label.

Training and export share one object, `AutoModelForSequenceClassification` with `num_labels=1`. Its
backbone computes hidden states in trees or padded rows, its head the reward; in training the head
may have several outputs (`heads.HeadSettings`).
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rmexp.batching.batch import Batch
from rmexp.core.errors import UserError
from rmexp.models.frozen_layers import ReplayLayer
from rmexp.models.reward_head import ModelFacts, RewardHead, draw_head, find_head
from rmexp.models.tree_attention import TREE_ATTENTION, TreeRow

DROPOUTS = {
    "attention_dropout",
    "attn_dropout",
    "attn_pdrop",
    "attention_probs_dropout_prob",
    "activation_dropout",
    "dropout",
    "embd_pdrop",
    "embedding_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "resid_pdrop",
    "residual_dropout",
}
"""Names of dropout probabilities in configurations of model families."""

BATCH_INVARIANCE_TOLERANCE = 1e-3
"""Maximum change of a reward with the other rows of the batch, in fp32; bugs are far above."""


def prepare_model(model: Any, tokenizer: Any, seed: int, fresh_head: bool) -> Any:
    """Fit a loaded classifier to the tokenizer, initialise a fresh head, and record its facts.

    Args:
        seed: of a fresh head and of the rows of new embeddings.
        fresh_head: the checkpoint had no weights for the head.

    Raises:
        UserError: the model has no head with one output.
    """
    grown = _too_few_embeddings(model, tokenizer)
    head = fit_tokenizer(model, tokenizer, seed)
    if fresh_head:
        draw_head(head, seed)
    record_facts(model, fresh_head, not grown, attends_to_future(model))
    return model


def record_facts(
    model: Any, fresh_head: bool, only_head_drawn: bool, attends_to_future: bool
) -> None:
    """Record a model's facts, see `ModelFacts`; before LoRA adds parameters."""
    _, head = find_head(model)
    head.facts = ModelFacts(
        fresh_head,
        only_head_drawn,
        sum(p.numel() for p in model.parameters()),
        attends_to_future,
        model.config._attn_implementation,
    )


def model_facts(model: Any) -> ModelFacts:
    return last_layer(model).facts


def update_facts(model: Any, **changes: Any) -> None:
    _, head = find_head(model)
    head.facts = dataclasses.replace(head.facts, **changes)


def fit_tokenizer(model: Any, tokenizer: Any, seed: int) -> RewardHead:
    """Fit a classifier to the tokenizer, with or without weights; returns its head's last layer.

    Raises:
        UserError: the model has no head with one output.
    """
    last = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == 1
        and not name.startswith(model.base_model_prefix + ".")
    ]
    if len(last) != 1:
        raise UserError(f"{type(model).__name__} has no head that gives one reward.")
    head: Any = last[0]
    head.__class__ = RewardHead
    if _too_few_embeddings(model, tokenizer):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # frozen weights are not in checkpoints: same seed, same rows
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = False
    fitted: RewardHead = head
    return fitted


def _too_few_embeddings(model: Any, tokenizer: Any) -> bool:
    return len(tokenizer) > model.get_input_embeddings().num_embeddings


def last_layer(model: Any) -> RewardHead:
    """The last layer of the head."""
    layers = head_layers(model)
    head: Any = layers[-1] if layers else find_head(model)[1]
    return head


def backbone(model: Any) -> nn.Module:
    return getattr(model, model.base_model_prefix)


def head_parameters(model: Any) -> list[nn.Parameter]:
    inside = {id(p) for p in backbone(model).parameters()}
    return [p for p in model.parameters() if id(p) not in inside]


def head_layers(model: Any) -> list[nn.Module] | None:
    """The layers from a token's hidden state to its reward; None if the head pools otherwise."""
    if isinstance(getattr(model, "score", None), RewardHead):
        return [model.score]
    if type(model).__name__ == "ModernBertDecoderForSequenceClassification":
        return [model.head, model.drop, model.classifier]
    return None


def compute_rewards(model: Any, batch: Batch) -> Tensor:
    """rewards_N in fp32, in either layout; see `compute_outputs`."""
    return combine_outputs(model, compute_outputs(model, batch))


def combine_outputs(model: Any, outputs_N_K: Tensor) -> Tensor:
    """rewards_N of the outputs of a model's head."""
    return last_layer(model).rewards(outputs_N_K)


def compute_outputs(model: Any, batch: Batch) -> Tensor:
    """outputs_N_K of the head in fp32, in either layout; K is 1 for head=linear.

    A decoder's head reads the last token of each response. Rows are padded on the right, so that a
    causal model needs no mask. Other models (encoders) get a mask and pool as in Hugging Face.
    """
    layers = head_layers(model)
    if layers is None:
        model.config._attn_implementation = model_facts(model).padded_attention
        logits_R_K = model(batch.tokens_R_T, attention_mask=_attention_mask(batch)).logits
        return logits_R_K[batch.row_N]
    pooled_N_D = batch.pooled_N_D
    if pooled_N_D is None:
        pooled_N_D = hidden_states(model, batch)[batch.row_N, batch.end_N]
    for layer in layers:
        pooled_N_D = layer(pooled_N_D)
    return pooled_N_D


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """(R, T, D) hidden states of a decoder's backbone for a micro-batch, in either layout.

    With `RewardHead.read` those of the final layer are right at the end of each response alone.
    The attention implementation stays set until the next micro-batch: gradient checkpointing calls
    the layers again in the backward pass.
    """
    facts = model_facts(model)
    padded = batch.trees is None
    model.config._attn_implementation = facts.padded_attention if padded else TREE_ATTENTION
    if batch.hidden_R_T_D is not None:
        replay = next(m for m in backbone(model).modules() if isinstance(m, ReplayLayer))
        replay.states = batch.hidden_R_T_D
    if (read := last_layer(model).read) is not None:
        read.set(batch.row_N, batch.end_N, *batch.tokens_R_T.shape)
    if batch.trees is None:
        more = {"attention_mask": _attention_mask(batch)} if facts.attends_to_future else {}
        return _hidden(model, batch.tokens_R_T, **more)
    row = TreeRow(batch.trees, batch.tokens_R_T.shape[1], batch.tokens_R_T.device)
    return _hidden(model, batch.tokens_R_T, position_ids=batch.positions_R_T, trees=row)


def _attention_mask(batch: Batch) -> Tensor:
    """(R, T) 1 at tokens, 0 at padding."""
    lengths_R = torch.zeros_like(batch.tokens_R_T[:, 0]).scatter(0, batch.row_N, batch.end_N + 1)
    return (batch.positions_R_T < lengths_R[:, None]).long()


def _hidden(model: Any, tokens_R_T: Tensor, **layout: Any) -> Tensor:
    return backbone(model)(input_ids=tokens_R_T, use_cache=False, **layout).last_hidden_state


@torch.no_grad()
def attends_to_future(model: Any) -> bool:
    """Whether a token's hidden state depends on later tokens."""
    if head_layers(model) is None:
        return True
    model.eval()
    tokens = torch.tensor([random_tokens(model)], device=next(model.parameters()).device)
    alone, followed = _hidden(model, tokens[:, :8])[:, 7], _hidden(model, tokens)[:, 7]
    return not torch.allclose(
        alone, followed, rtol=BATCH_INVARIANCE_TOLERANCE, atol=BATCH_INVARIANCE_TOLERANCE
    )


def random_tokens(model: Any) -> list[int]:
    """Twelve random token ids, without the first few, which may be special tokens."""
    vocabulary = model.get_input_embeddings().num_embeddings
    return np.random.default_rng(0).integers(min(8, vocabulary - 1), vocabulary, 12).tolist()


def compile_layers(model: Any) -> None:
    """Compile each layer once for all lengths, without tree attention."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    from rmexp.models.tree_attention import leave_attention_uncompiled

    leave_attention_uncompiled()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True)


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Seed torch within the block and restore its random state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
