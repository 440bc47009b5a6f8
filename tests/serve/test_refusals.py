"""task=serve: what is refused, in one sentence and one form."""

import asyncio
import base64
import dataclasses
import threading

import httpx
import pytest
from tokenizers.processors import TemplateProcessing

from rmexp.core.errors import UserError
from rmexp.serve.access import listen
from rmexp.serve.encoding import RequestEncoder
from rmexp.serve.refusals import Refusal
from rmexp.templates.rendering import render, tokenize
from tests.helpers.options import from_conf
from tests.helpers.servers import LIMITS, make_service, running
from tests.helpers.toys import tiny_tokenizer

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client(home):
    with running(make_service(home)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def refusal(answer, status):
    """The sentence of an error."""
    assert answer.status_code == status, answer.text
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "code"}
    assert error["code"] == status
    assert error["message"].endswith(".")
    return error["message"]


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"{", 400, "The body is not JSON: Expecting property name"),
        (b"", 400, "The request has no body"),
        (b"\xff{}", 400, "The body is not UTF-8 (at byte 0)"),
        (b'{"query": NaN}', 400, "NaN is no JSON number"),
        (b'{"query": "a", "labels": [-Infinity]}', 400, "-Infinity is no JSON number"),
        (b'{"query": "a", "labels": [1e999]}', 400, "1e999 is too large"),
        (b'{"query": "\\ud800"}', 400, "half of a surrogate pair"),
        (b'{"query": "a", "labels": ["\\uDC00"]}', 400, "half of a surrogate pair"),
        (b"[" * 100_00, 400, "nested too deeply"),
        (b"[]", 422, "The body should be a valid dictionary"),
        (b"{}", 422, "query is missing."),
        (b'{"query": 3}', 422, "query should be a text or a list of texts, not empty."),
        (b'{"query": []}', 422, "query should be a text or a list of texts, not empty."),
        (b'{"query": ["a", null]}', 422, "query should be a text or a list of texts"),
        (b'{"query": ["a", " "]}', 422, "query[1] is empty."),
    ],
)
def test_bad_bodies(client, body, status, sentence):
    assert sentence in refusal(client.post("/get_reward", content=body, headers=JSON), status)


USER, ANSWER, KING = ({"role": r, "content": "a"} for r in ("user", "assistant", "king"))
BAD_REQUESTS = [
    ("/classify", {}, "The body needs either input or messages."),
    ("/classify", {"input": "a", "messages": [{}]}, "The body needs either input or messages."),
    ("/classify", {"input": [True]}, "input should be a text, a list of texts, a list of token"),
    ("/classify", {"input": [1, 9999]}, "input has the token id 9999; the model's are 0 to 258."),
    ("/classify", {"input": "a", "use_activation": "yes"}, "use_activation should be a valid bool"),
    ("/classify", {"input": "a", "truncate_prompt_tokens": 9}, "truncate_prompt_tokens should be"),
    ("/classify", {"input": "a", "chat_template": "x"}, "chat_template should be"),
    ("/classify", {"messages": [USER]}, "messages should have a message of the user, and end with"),
    ("/classify", {"messages": [ANSWER]}, "messages should have a message of the user, and end"),
    ("/classify", {"messages": [USER, KING, ANSWER]}, "unknown role 'king'"),
    ("/v1/score/evaluation", {"model": "m", "messages": []}, "messages should be a list of texts,"),
    ("/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, "top_n should be greater than 0."),
    ("/rerank", {"query": "a", "documents": []}, "documents should be a list of texts, not empty."),
    ("/score", {"text_1": ["a", "b"], "text_2": ["c"]}, "There are 2 queries and 1 documents"),
    ("/reward", {"prompt": "a"}, "The body needs prompt with either response or responses"),
    ("/reward", {"prompt": "a", "response": "b", "responses": ["b"]}, "The body needs prompt"),
    ("/reward", {"prompt": " ", "response": "b"}, "prompt is empty"),
    ("/reward", {"prompt": "a", "response": "b", "scale": "percent"}, "scale should be 'raw'"),
    ("/reward", {"prompt": [], "response": "b"}, "prompt should be a text or a list of messages"),
    (
        "/reward",
        {"prompt": "<|im_start|>user\na", "response": [{"role": "assistant", "content": "b"}]},
        "response should be text, as the prompt is rendered text",
    ),
]


@pytest.mark.parametrize(("path", "body", "sentence"), BAD_REQUESTS)
def test_bad_values(client, path, body, sentence):
    assert sentence in refusal(client.post(path, json=body), 422)


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/classify", {"input": ["a", "b" * 401]}, "input[1] has 401 tokens, more than the 400"),
        ("/classify", {"input": [5] * 401}, "input has 401 tokens, more than the 400"),
        ("/reward", {"prompt": "p" * 400, "response": "b"}, "tokens, more than the 400 that"),
        ("/get_reward", {"query": "a" * 3001}, "query has 3,001 characters, more than task.max_"),
        ("/get_reward", {"query": ["a"] * 17}, "query has 17 texts, more than task.max_texts=16"),
        ("/get_reward", {"query": "a" * 100_000}, "larger than task.max_body_mib=0.0953674"),
    ],
)
def test_what_is_too_large_is_refused_and_never_cut(client, path, body, sentence):
    assert sentence in refusal(client.post(path, json=body), 413)


def test_a_dialogue_that_is_too_long_is_not_shortened(client):
    """Scoring a file may drop its oldest turns; a server must not."""
    turn = [{"role": "user", "content": "a" * 150}, {"role": "assistant", "content": "b" * 50}]
    sentence = refusal(client.post("/reward", json={"messages": turn * 3}), 413)
    assert "messages has 663 tokens, more than the 400" in sentence


def test_a_body_without_a_length_is_read_up_to_the_limit(client):
    def endless():
        yield b'{"query": "'
        for _ in range(1000):
            yield b"a" * 1000

    with httpx.Client(base_url=client.base_url, timeout=60) as other:
        try:
            answer = other.post("/get_reward", content=endless(), headers=JSON)
        except httpx.WriteError:  # the server closed while we still sent
            return
        assert "larger than" in refusal(answer, 413)


def test_other_paths_methods_and_types(client):
    assert "POST /nothing: Not Found; see /docs" in refusal(client.post("/nothing"), 404)
    assert "Method Not Allowed" in refusal(client.get("/get_reward"), 405)
    plain = client.post("/get_reward", content=b"{}", headers={"Content-Type": "text/plain"})
    assert "send the header Content-Type: application/json" in refusal(plain, 415)


def test_the_token_is_asked_for(home):
    with (
        running(make_service(home), token="secret") as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        basic = base64.b64encode(b"any:secret").decode()
        good = ["Bearer secret", "bearer secret", f"Basic {basic}"]
        for header in good:
            assert client.get("/v1/models", headers={"Authorization": header}).status_code == 200
        bad = ["", "Bearer", "Bearer Secret", "secret", "Basic secret", "Basic !", "Bearer ü"]
        for header in bad:
            headers = {"Authorization": header.encode()}
            for path in ("/v1/models", "/metrics", "/nothing"):
                assert "token" in refusal(client.get(path, headers=headers), 401)
        body = {"prompt": "a", "response": "b"}
        assert "token" in refusal(client.post("/reward", json=body), 401)
        assert client.get("/health").status_code == 200
        assert client.get("/docs").status_code == 200


def gated(service):
    """Let the model wait for the returned event, and count the texts that it computes."""
    gate, computed, before = threading.Event(), [], service.scorer.trees

    def trees(trees, keys=None):
        computed.extend(ids for tree in trees for ids in tree)
        gate.wait()
        return before(trees, keys)

    service.scorer.trees = trees
    return gate, computed


def test_a_full_queue_answers_503_and_recovers(home):
    service = make_service(home, queue_texts=16)
    gate, computed = gated(service)

    async def fill(url):
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            first = asyncio.create_task(client.post("/get_reward", json={"query": "first"}))
            while not computed:
                await asyncio.sleep(0.005)
            texts = [f"text {n}" for n in range(15)]
            more = asyncio.create_task(client.post("/get_reward", json={"query": texts}))
            while service.telemetry.registry.get_sample_value("rmexp_waiting_texts") < 15:
                await asyncio.sleep(0.005)
            full = await client.post("/get_reward", json={"query": ["one", "two"]})
            gate.set()
            return full, await first, await more

    with running(service) as url:
        full, first, more = asyncio.run(fill(url))
    assert "The queue is full (16 texts): try again in 1 s." in refusal(full, 503)
    assert full.headers["Retry-After"] == "1"
    assert (first.status_code, more.status_code) == (200, 200)
    assert len(more.json()["rewards"]) == 15


def test_texts_of_clients_that_left_are_not_computed(home):
    service = make_service(home)
    gate, computed = gated(service)

    def waiting():
        return service.telemetry.registry.get_sample_value("rmexp_waiting_texts")

    async def leave(url):
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            first = asyncio.create_task(client.post("/get_reward", json={"query": "first"}))
            while not computed:
                await asyncio.sleep(0.005)
            second = asyncio.create_task(client.post("/get_reward", json={"query": "second"}))
            while waiting() < 1:
                await asyncio.sleep(0.005)
            second.cancel()
            while waiting():
                await asyncio.sleep(0.005)
            gate.set()
            assert (await first).status_code == 200
            assert (await client.post("/get_reward", json={"query": "third"})).status_code == 200

    with running(service) as url:
        asyncio.run(leave(url))
    assert len(computed) == 2


def test_an_error_of_the_model_is_500_and_the_next_batch_is_computed(home):
    service = make_service(home)
    before = service.scorer.trees
    found = iter([MemoryError("no memory"), [[float("nan")]]])

    def trees(trees, keys=None):
        result = next(found, None)
        if isinstance(result, Exception):
            raise result
        return result or before(trees, keys)

    service.scorer.trees = trees
    with running(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        body = {"query": "a"}
        assert "MemoryError" in refusal(client.post("/get_reward", json=body), 500)
        assert "NaN" in refusal(client.post("/get_reward", json=body), 500)
        assert client.post("/get_reward", json=body).status_code == 200


def bos_tokenizer(adds, template_writes):
    """A tokenizer with a BOS token, which it may add to texts, and its template may write."""
    tokenizer = from_conf("model/tiny").load_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    bos = tokenizer.bos_token_id
    if adds:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", bos)]
        )
    if template_writes:
        tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    from_conf("template/tokenizer").install(tokenizer)
    return tokenizer


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("adds", [False, True])
def test_bos_comes_once_whatever_is_sent(adds, writes):
    tokenizer = bos_tokenizer(adds, writes)
    encoder = RequestEncoder(tokenizer, len(tokenizer), LIMITS)
    bos = tokenizer.bos_token_id
    dialogue = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yes"}]
    text = render(tokenizer, [dialogue])[0]
    trained = tuple(tokenize(tokenizer, [text])[0])
    assert trained.count(bos) == writes
    assert encoder.responses("Hi", ["yes"]) == [trained]
    assert encoder.dialogue(dialogue) == [trained]
    assert encoder.texts([text], "input") == [trained]
    bare = text.removeprefix("<s>")
    if adds:  # a client's tokenizer may have added BOS, or a client removed it
        assert encoder.texts([bare, f"<s>{text}"], "input") == [trained, trained]
        assert encoder.texts([bare], "input", add_bos=False)[0].count(bos) == 0
        assert encoder.responses("<s>" + bare.split("yes")[0], ["yes"]) == [trained]
    else:
        assert encoder.texts([bare], "input")[0].count(bos) == 0
        assert encoder.texts([f"<s>{text}"], "input")[0].count(bos) == 1


def test_a_template_that_begins_every_turn_with_bos_keeps_them():
    """SmolLM2's BOS is <|im_start|>."""
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    encoder = RequestEncoder(tokenizer, len(tokenizer), LIMITS)
    (ids,) = encoder.responses("Hi", ["yes"])
    assert ids.count(tokenizer.bos_token_id) == 2
    assert encoder.texts([tokenizer.decode(ids)], "input") == [ids]


def test_limits_hold_for_rendered_dialogues():
    tokenizer = tiny_tokenizer()
    encoder = RequestEncoder(tokenizer, 259, dataclasses.replace(LIMITS, characters=50))
    with pytest.raises(Refusal, match=r"response has \d+ characters"):
        encoder.responses("a" * 40, ["b"], name="response")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_addresses_need_a_token(host):
    with pytest.raises(UserError, match="a token is needed"):
        listen(host, 0, None)
    listen(host, 0, "token").close()
    listen("localhost", 0, None).close()


def test_addresses_that_cannot_be_used():
    with pytest.raises(UserError, match=r"task.host=nowhere.invalid is no address"):
        listen("nowhere.invalid", 0, "token")
    with pytest.raises(UserError, match=r"192.0.2.1 is not available"):
        listen("192.0.2.1", 0, "token")
