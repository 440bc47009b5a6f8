"""task=serve: every route against the rewards of the scorer."""

import asyncio
import re

import httpx
import numpy as np
import pytest

from rmexp.inference.scorer import as_comparison
from rmexp.templates.rendering import render_comparison, tokenize
from tests.helpers.servers import CALIBRATION, make_service, running, write_model

PROMPT = "What is 2 + 2?"
RESPONSES = ["Four.", "Five, I think.", "About four."]
DIALOGUE = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "Four."}]
TEXTS = ["<|im_start|>user\nHi<|im_end|>\n", "a text", "a text, longer"]


@pytest.fixture(scope="module")
def service(home):
    return make_service(home)


@pytest.fixture(scope="module")
def client(service):
    with running(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def expected(scorer):
    """The rewards of RESPONSES."""
    return scorer.score(PROMPT, RESPONSES)


@pytest.fixture(scope="module")
def of_texts(scorer):
    """The rewards of TEXTS."""
    ids = scorer.tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    return [scorer.trees([[one]])[0][0] for one in ids]


def ask(client, path, body):
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def near(values):
    return pytest.approx(values, abs=1e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.array(x)))


def test_reward_of_one_response_is_the_bare_number(client, expected):
    """slime's contract: the body of the answer is the reward."""
    body = {"prompt": PROMPT, "response": "Four.", "label": "4"}
    assert ask(client, "/reward", body) == near(expected[0])
    messages = {"prompt": DIALOGUE[:1], "response": DIALOGUE[1:]}
    assert ask(client, "/reward", messages) == near(expected[0])
    assert ask(client, "/reward", {"messages": DIALOGUE}) == near(expected[0])


def test_reward_of_several_responses_has_probabilities(client, scorer, expected):
    found = ask(client, "/reward", {"prompt": PROMPT, "responses": RESPONSES})
    wins = sigmoid((np.array(expected)[:, None] - np.array(expected)) / CALIBRATION.temperature)
    assert set(found) == {"rewards", "scale", "tokens", "probabilities", "model"}
    assert found["rewards"] == near(expected)
    dialogues = render_comparison(scorer.tokenizer, as_comparison(PROMPT, RESPONSES))
    assert found["tokens"] == list(map(len, tokenize(scorer.tokenizer, dialogues)))
    assert found["scale"] == "raw"
    assert found["model"] == "model"
    assert np.allclose(found["probabilities"], wins, atol=1e-5)


@pytest.mark.parametrize(
    ("scale", "convert"),
    [
        ("normalised", lambda r: (r - 0.25) / 2),
        ("probability", lambda r: sigmoid((r - 0.25) / 0.5)),
        ("rating", lambda r: 3 + 0.4 * r),
    ],
)
def test_reward_on_a_scale(client, scorer, expected, scale, convert):
    values = convert(np.array(expected))
    assert scorer.score(PROMPT, RESPONSES, scale=scale) == near(values)
    body = {"prompt": PROMPT, "responses": RESPONSES, "scale": scale}
    assert ask(client, "/reward", body)["rewards"] == near(values)
    body = {"prompt": PROMPT, "response": "Four.", "scale": scale}
    assert ask(client, "/reward", body) == near(values[0])


def test_a_prompt_that_is_rendered_already_is_continued(client, expected):
    """As slime sends it: with the generation prompt, and the response with or without its end."""
    rendered = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    body = {"prompt": rendered, "responses": ["Four.", "Four.<|im_end|>", "Four.<|im_end|>\n"]}
    assert ask(client, "/reward", body)["rewards"] == near([expected[0]] * 3)


def test_get_reward_is_openrlhf_s(client, of_texts):
    body = {"query": TEXTS, "prompts": ["a", "b", "c"], "labels": [None, 1, {"x": 2}]}
    found = ask(client, "/get_reward", body)
    assert found["rewards"] == near(of_texts)
    assert found["scores"] == near(sigmoid((np.array(of_texts) - 0.25) / 0.5))
    assert found["extra_logs"]["reward_normalised"] == near((np.array(of_texts) - 0.25) / 2)
    assert found["extra_logs"]["reward_tokens"] == [10, 6, 14]
    assert ask(client, "/get_reward", {"query": TEXTS[1]})["rewards"] == near(of_texts[1:2])


def test_classify_gives_raw_rewards_as_probs(client, scorer, expected, of_texts):
    found = ask(client, "/classify", {"model": "any", "input": TEXTS, "use_activation": False})
    assert [one["probs"] for one in found["data"]] == [[near(r)] for r in of_texts]
    assert [one["index"] for one in found["data"]] == [0, 1, 2]
    assert found["data"][0] | {"probs": 0} == {
        "index": 0,
        "label": "LABEL_0",
        "probs": 0,
        "num_classes": 1,
    }
    assert (found["object"], found["usage"]["prompt_tokens"]) == ("list", 30)
    assert re.fullmatch("classify-[0-9a-f]{32}", found["id"])
    # verl reads data[-1].probs[-1]
    assert ask(client, "/classify", {"input": TEXTS[1]})["data"][-1]["probs"][-1] == near(
        of_texts[1]
    )
    ids = scorer.tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    assert ask(client, "/classify", {"input": ids[1]})["data"][0]["probs"] == near(of_texts[1:2])
    many = ask(client, "/classify", {"input": ids})["data"]
    assert [one["probs"][0] for one in many] == near(of_texts)
    messages = ask(client, "/classify", {"messages": DIALOGUE})
    assert messages["data"][0]["probs"] == near(expected[:1])


@pytest.mark.parametrize("name", ["use_activation", "activation"])
def test_classify_gives_the_sigmoid_when_asked(client, of_texts, name):
    found = ask(client, "/classify", {"input": TEXTS, name: True})
    assert [one["probs"][0] for one in found["data"]] == near(sigmoid(of_texts))
    raw = ask(client, "/classify", {"input": TEXTS, name: False})
    assert [one["probs"][0] for one in raw["data"]] == near(of_texts)


def test_an_unfinished_dialogue_has_no_end_of_turn(client, scorer):
    body = {"messages": DIALOGUE, "continue_final_message": True}
    (step,) = scorer.score(PROMPT, ["Four."], unfinished=True)
    assert ask(client, "/classify", body)["data"][0]["probs"] == near([step])


def test_embeddings_are_rewards(client, of_texts):
    """verl with SGLang reads data[-1].embedding[-1]."""
    found = ask(client, "/v1/embeddings", {"model": "any", "input": TEXTS[2]})
    assert found["data"] == [{"index": 0, "object": "embedding", "embedding": near(of_texts[2:])}]


def test_score_evaluation_is_llamafactory_s(client, of_texts):
    found = ask(client, "/v1/score/evaluation", {"model": "model", "messages": TEXTS})
    assert found.pop("id").startswith("scoreval-")
    assert found == {"object": "score.evaluation", "model": "model", "scores": near(of_texts)}
    body = {"model": "model", "messages": TEXTS, "max_length": 12}
    answer = client.post("/v1/score/evaluation", json=body)
    assert answer.status_code == 413
    assert "a text of 14 tokens, more than max_length=12" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize(
    ("one", "two"), [("queries", "documents"), ("text_1", "text_2"), ("data_1", "data_2")]
)
def test_score_is_vllm_s(client, expected, path, one, two):
    found = ask(client, path, {one: PROMPT, two: RESPONSES})
    assert [row["score"] for row in found["data"]] == near(expected)
    found = ask(client, path, {one: [PROMPT] * 3, two: RESPONSES, "use_activation": True})
    assert [row["score"] for row in found["data"]] == near(sigmoid(expected))


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
def test_rerank_sorts(client, expected, path):
    documents = [RESPONSES[0], {"text": RESPONSES[1]}, RESPONSES[2]]
    found = ask(client, path, {"query": PROMPT, "documents": documents, "top_n": 2})
    order = np.argsort(expected)[::-1][:2].tolist()
    assert found["results"] == [
        {"index": n, "document": {"text": RESPONSES[n]}, "relevance_score": near(expected[n])}
        for n in order
    ]


def test_models_says_what_is_known(client, tmp_path, home):
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == "model"
    assert model["max_length"] == 400
    assert model["scales"] == ["raw", "normalised", "probability", "rating"]
    assert (model["base"], model["warnings"], model["accuracy"]) == (None, [], None)


def test_health_docs_and_metrics(client):
    assert client.get("/health").json() == {"status": "ok"}
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/get_reward", "/classify", "/v1/embeddings", "/v1/score/evaluation"} < set(paths)
    assert {"/score", "/rerank", "/reward", "/health", "/v1/models", "/metrics"} < set(paths)
    assert client.get("/docs").status_code == 200
    ask(client, "/reward", {"prompt": PROMPT, "responses": RESPONSES})
    text = client.get("/metrics").text
    assert 'rmexp_requests_total{route="/reward",status="200"}' in text
    assert "rmexp_tokens_computed_total" in text


def test_a_model_without_calibration_has_raw_rewards_alone(tmp_path):
    plain = write_model(tmp_path / "plain", calibration=None)
    with running(make_service(plain)) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/v1/models").json()["data"][0]["scales"] == ["raw"]
        found = ask(client, "/reward", {"prompt": PROMPT, "responses": RESPONSES})
        assert found["probabilities"] is None
        assert "scores" not in ask(client, "/get_reward", {"query": TEXTS})
        answer = client.post("/reward", json={"prompt": "a", "response": "b", "scale": "rating"})
        assert answer.status_code == 422
        assert answer.json()["error"]["message"] == (
            "scale=rating: the model has no calibration.json; there is raw."
        )


@pytest.mark.slow
def test_concurrent_requests_keep_their_order_and_share_prefixes(service, client, scorer):
    """64 clients with one text each: 8 responses to each of 8 prompts."""
    prompts = [f"Prompt number {n}, with some words." for n in range(8)]
    answers = ["answer " * (k + 1) for k in range(8)]
    jobs = [(prompt, answer) for answer in answers for prompt in prompts]
    expected = {prompt: scorer.score(prompt, answers) for prompt in prompts}

    async def every():
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(
            base_url=client.base_url, timeout=60, limits=limits
        ) as concurrent:
            bodies = [{"prompt": prompt, "response": answer} for prompt, answer in jobs]
            answers = [concurrent.post("/reward", json=body) for body in bodies]
            return [answer.json() for answer in await asyncio.gather(*answers)]

    def sample(name):
        return service.telemetry.registry.get_sample_value(name)

    names = ("rmexp_batch_texts_count", "rmexp_tokens_given_total", "rmexp_tokens_computed_total")
    before = [sample(name) for name in names]
    found = asyncio.run(every())
    batches, given, computed = (sample(n) - b for n, b in zip(names, before, strict=True))
    assert found == near([expected[p][answers.index(a)] for p, a in jobs])
    assert batches < 64
    assert computed < 0.8 * given
