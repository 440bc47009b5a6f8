"""The routes of vLLM's and SGLang's pooling servers that consumers of reward models use."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter

from rmexp.batching.prefix_groups import Tokens
from rmexp.evaluation.reliability import sigmoid
from rmexp.serve.bodies import StrictRoute
from rmexp.serve.encoding import RequestEncoder
from rmexp.serve.protocol import Classify, Embeddings, Input, Rerank, ScorePairs
from rmexp.serve.refusals import Refusal
from rmexp.serve.service import RewardService, ScoredTexts, new_id


def vllm_routes(service: RewardService) -> APIRouter:
    router = APIRouter(route_class=StrictRoute)
    info = service.info

    @router.post("/classify", summary="vLLM and verl: rewards as probs")
    async def classify(body: Classify) -> dict[str, Any]:
        """`probs` has one number: the raw reward, or its sigmoid with `use_activation: true`."""

        def encode(encoder: RequestEncoder) -> list[Tokens]:
            if body.messages is not None:
                return encoder.dialogue(body.messages, body.continue_final_message)
            return _encoded(encoder, body.input, body.add_special_tokens)

        found = await service.rewards(encode)
        data = [
            {"index": n, "label": info.label, "probs": [value], "num_classes": 1}
            for n, value in enumerate(_activated(found.rewards, body.activated))
        ]
        return _listed("classify", data, found)

    @router.post("/v1/embeddings", summary="verl with SGLang: the embedding is the reward")
    async def embeddings(body: Embeddings) -> dict[str, Any]:
        found = await service.rewards(lambda encoder: _encoded(encoder, body.input))
        data = [
            {"index": n, "object": "embedding", "embedding": [value]}
            for n, value in enumerate(found.rewards)
        ]
        return _listed("embd", data, found)

    @router.post("/score", summary="vLLM: rewards of prompts and responses")
    @router.post("/v1/score", include_in_schema=False)
    async def score(body: ScorePairs) -> dict[str, Any]:
        found = await service.rewards(lambda encoder: _pairs(encoder, body))
        data = [
            {"index": n, "object": "score", "score": value}
            for n, value in enumerate(_activated(found.rewards, body.use_activation))
        ]
        return _listed("score", data, found)

    @router.post("/rerank", summary="vLLM and Jina: the responses to a prompt, best first")
    @router.post("/v1/rerank", include_in_schema=False)
    async def rerank(body: Rerank) -> dict[str, Any]:
        texts = body.texts
        found = await service.rewards(
            lambda encoder: encoder.responses(body.query, texts, name="documents")
        )
        values = _activated(found.rewards, body.use_activation)
        order = sorted(range(len(texts)), key=lambda n: -values[n])[: body.top_n]
        results = [
            {"index": n, "document": {"text": texts[n]}, "relevance_score": values[n]}
            for n in order
        ]
        tokens = sum(found.tokens)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"id": new_id("rerank"), "model": info.name, "usage": usage, "results": results}

    def _listed(prefix: str, data: list[dict[str, Any]], found: ScoredTexts) -> dict[str, Any]:
        tokens = sum(found.tokens)
        return {
            "id": new_id(prefix),
            "object": "list",
            "created": int(time.time()),
            "model": info.name,
            "data": data,
            "usage": {
                "prompt_tokens": tokens,
                "total_tokens": tokens,
                "completion_tokens": 0,
                "prompt_tokens_details": None,
            },
        }

    return router


def _encoded(encoder: RequestEncoder, given: Input | None, add_bos: bool = True) -> list[Tokens]:
    """A text, texts, token ids or lists of them."""
    entries: Any = [given] if isinstance(given, str) else given
    if isinstance(entries[0], str):
        return encoder.texts(entries, "input", add_bos)
    return encoder.token_ids([entries] if isinstance(entries[0], int) else entries, "input")


def _pairs(encoder: RequestEncoder, body: ScorePairs) -> list[Tokens]:
    queries = [body.queries] if isinstance(body.queries, str) else body.queries
    documents = [body.documents] if isinstance(body.documents, str) else body.documents
    if len(queries) == 1:
        return encoder.responses(queries[0], documents, name="documents")
    if len(queries) != len(documents):
        raise Refusal(
            422,
            f"There are {len(queries)} queries and {len(documents)} documents: send one query for "
            "all documents, or one each.",
        )
    encoder.check_count(len(documents), "documents")
    found = (
        encoder.responses(query, [document], name=f"documents[{n}]")
        for n, (query, document) in enumerate(zip(queries, documents, strict=True))
    )
    return [ids for (ids,) in found]


def _activated(rewards: Sequence[float], activated: bool | None) -> list[float]:
    return sigmoid(np.array(rewards)).tolist() if activated else list(rewards)
