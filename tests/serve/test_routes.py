"""task=serve: every route against the rewards of the scorer."""

import httpx
import pytest

import rmexp
from tests.helpers.servers import LIMITS, make_service, running, write_model


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def scorer(home):
    """Another scorer of the same model, for expected rewards."""
    return rmexp.load(home, precision="32-true", max_length=LIMITS.tokens)


@pytest.fixture(scope="module")
def client(home):
    with running(make_service(home)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def ask(client, path, body):
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_reward_is_the_bare_number_or_an_object(client, scorer):
    yes, no = scorer.score("Hi", ["yes", "no"])
    assert ask(client, "/reward", {"prompt": "Hi", "response": "yes"}) == pytest.approx(yes)
    found = ask(client, "/reward", {"prompt": "Hi", "responses": ["yes", "no"]})
    assert found["rewards"] == pytest.approx([yes, no])
    assert found["model"] == "model"
