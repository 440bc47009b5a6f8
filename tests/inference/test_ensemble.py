"""Several models as one: by Python, to a file, over HTTP."""

import json

import httpx
import numpy as np
import pyarrow.parquet
import pytest

import rmexp as package
from rmexp.core.errors import UserError
from rmexp.evaluation.calibration import Calibration
from rmexp.serve.model_info import ModelInfo
from rmexp.serve.service import RewardService
from tests.conftest import result
from tests.helpers.options import from_conf
from tests.helpers.servers import LIMITS, running, write_model

SCALES = Calibration(reward_mean=1.0, reward_std=2.0), Calibration(reward_std=0.5)
QUESTION, ANSWERS = "What is 2 + 2?", ["Four.", "Five, I think.", "4"]


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """Two models that differ in weights, scale and template, and one without a calibration."""
    folder = tmp_path_factory.mktemp("members")
    homes = [write_model(folder / f"m{n}", scale, seed=n) for n, scale in enumerate(SCALES)]
    bare = write_model(folder / "bare", None, seed=2)
    tokenizer = package.load(homes[1], precision="32-true").tokenizer
    from_conf("template/plain").install(tokenizer)
    tokenizer.save_pretrained(homes[1])
    return [*homes, bare]


@pytest.fixture(scope="module")
def standardised(homes):
    """(M, N) rewards of the members for the answers, by scorers of their own."""
    rewards = [package.load(one, precision="32-true").score(QUESTION, ANSWERS) for one in homes[:2]]
    return np.stack([s.normalised(np.array(r)) for s, r in zip(SCALES, rewards, strict=True)])


@pytest.mark.slow
def test_members_render_by_themselves_are_standardised_and_aggregated(homes, standardised):
    for aggregate, expected in (
        ("mean", standardised.mean(0)),
        ("min", standardised.min(0)),
        ("lcb", standardised.mean(0) - 2 * standardised.std(0)),
    ):
        model = package.load(homes[:2], precision="32-true", aggregate=aggregate, lcb_lambda=2.0)
        assert model.score(QUESTION, ANSWERS) == pytest.approx(expected)
    found = model.score(QUESTION, ANSWERS, uncertainty=True)
    assert found.rewards == pytest.approx(expected)
    assert found.std == pytest.approx(standardised.std(0))
    assert np.array(found.members) == pytest.approx(standardised)


@pytest.mark.slow
def test_what_an_ensemble_lacks_is_one_sentence(homes):
    model = package.load(homes[:2], precision="32-true")
    with pytest.raises(
        UserError, match="scale=probability: an ensemble of runs has no calibration"
    ):
        model.score(QUESTION, ANSWERS, scale="probability")
    with pytest.raises(UserError, match="1 of 2 members have another template or tokenizer"):
        model.check_same_tokens()
    with pytest.raises(UserError, match=r"bare has no calibration\.json, by which an ensemble"):
        package.load([homes[0], homes[2]])
    with pytest.raises(UserError, match="aggregate='lcb' needs lcb_lambda"):
        package.load(homes[:2], aggregate="lcb")
    with pytest.raises(UserError, match="uncertainty=True needs several members"):
        package.load(homes[0], precision="32-true").score(QUESTION, ANSWERS, uncertainty=True)


@pytest.mark.slow
def test_a_file_has_rewards_and_their_spread(rmexp, homes, standardised, write_rows):
    path = write_rows(
        [
            {"id": "a", "prompt": QUESTION, "responses": ANSWERS},
            {"id": "b", "prompt": QUESTION, "response": "long " * 200},
        ]
    )
    words = (
        "task=score", f"checkpoint=[{homes[0]},{homes[1]}]", f"data.path={path}",
        "trainer.precision=32-true", "data.max_length=300",
    )  # fmt: skip
    done = rmexp(*words, "aggregate=lcb", "lcb_lambda=1", "out=out.jsonl")
    assert "lcb of 2 models: memory holds 2, and each text is computed 2 times" in done.stdout
    rows = [json.loads(line) for line in (rmexp.folder / "out.jsonl").read_text().splitlines()]
    expected = standardised.mean(0) - standardised.std(0)
    assert [row["reward"] for row in rows[:3]] == pytest.approx(expected)
    assert [row["std"] for row in rows[:3]] == pytest.approx(standardised.std(0))
    unscored = {"reward": None, "std": None, "members": None}
    assert rows[3] == {"id": "b", "response": 0} | unscored
    assert result(rmexp.runs()[0])["rows"]["dropped"] == {"longer than 300 tokens": {"all": 1}}
    rmexp(*words, "out=out.parquet")
    assert pyarrow.parquet.read_table(rmexp.folder / "out.parquet").column_names == [
        "id", "response", "reward", "std", "members",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_list_of_models_is_evaluated_as_an_ensemble(rmexp, homes, standardised, write_rows):
    path = write_rows([{"id": "a", "prompt": QUESTION, "responses": ANSWERS, "ratings": [2, 1, 3]}])
    rmexp(
        "task=evaluate", "logger=none", "data=jsonl", f"data.path={path}", "aggregate=min",
        f"eval.scores=[{homes[0]},{homes[1]}]", "trainer.precision=32-true",
    )  # fmt: skip
    (run,) = rmexp.runs()
    table = pyarrow.parquet.read_table(run / "predictions" / "all.parquet").to_pydict()
    assert table["reward"] == pytest.approx(standardised.min(0), abs=1e-5)
    assert "bare has no calibration, its own rewards standardise it." in "".join(
        result(_evaluated(rmexp, f"[{homes[0]},{homes[2]}]", path))["fallbacks"]
    )


def _evaluated(rmexp, scores, path):
    words = ("data=jsonl", f"data.path={path}", f"eval.scores={scores}")
    rmexp("task=evaluate", "logger=none", *words, "trainer.precision=32-true")
    return rmexp.runs()[-1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["task=evaluate"],
            "task=evaluate takes one checkpoint. An ensemble is evaluated by task=evaluate eval.",
        ),
        (["template=chatml"], "Each member of an ensemble has its own template"),
        (["checkpoint=[{0},{2}]"], "bare has no calibration.json"),
        (["checkpoint=[{0},nowhere]"], "checkpoint=nowhere: there is no such directory"),
        (["checkpoint=[]"], "checkpoint=[]: name the members"),
        (["aggregate=max"], "aggregate=max: should be"),
        (["lcb_lambda=-1", "aggregate=lcb"], "lcb_lambda=-1.0: should be a number of 0 or more"),
    ],
)
def test_refusals_before_a_model_loads(rmexp, homes, monkeypatch, words, sentence, write_rows):
    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("transformers.AutoModelForSequenceClassification.from_pretrained", load)
    given = ["task=score", "checkpoint=[{0},{1}]", f"data.path={write_rows([])}", "out=x.jsonl"]
    if words[0].startswith("task="):
        given = given[1:2]
    filled = [word.format(*homes) for word in [*given, *words]]
    done = rmexp(*filled, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr


def test_a_server_answers_as_the_ensemble(homes, standardised):
    scorer = package.load([homes[0], homes[0]], precision="32-true")
    scorer.members[1].calibration = SCALES[1]
    rewards = scorer.members[0].score(QUESTION, ANSWERS)
    both = np.stack([scale.normalised(np.array(rewards)) for scale in SCALES])
    scorer.check_same_tokens()
    info = ModelInfo(scorer.name, None, 400, ("raw",))
    service = RewardService(scorer, info, LIMITS, 64, 0.0)
    with running(service) as url:
        body = {"prompt": QUESTION, "responses": ANSWERS}
        found = httpx.post(f"{url}/reward", json=body).json()
        assert found["rewards"] == pytest.approx(both.mean(0))
        assert found["std"] == pytest.approx(both.std(0))
        assert found["probabilities"] is None
        one = httpx.post(f"{url}/reward", json={"prompt": QUESTION, "response": ANSWERS[0]})
        assert one.json() == pytest.approx(both.mean(0)[0])
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "mean of 2 models"


def test_a_server_takes_members_that_read_the_same_tokens(rmexp, homes):
    words = ("task=serve", f"checkpoint=[{homes[0]},{homes[1]}]", "task.port=0")
    assert "1 of 2 members have another template" in rmexp(*words, check=False).stderr
