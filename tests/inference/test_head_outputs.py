"""What a run with several outputs gives where it is used: the reward, its members, their spread."""

import json

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from safetensors import safe_open

import rmexp as package
from rmexp.core.errors import UserError
from rmexp.evaluation.aggregate import aggregate_rewards
from rmexp.models.head_file import HEADS_FILE
from rmexp.serve.app import create_app
from tests.conftest import SHORT_DEMO, CommandLine, result
from tests.helpers.servers import make_service, write_model

pytestmark = pytest.mark.slow

WORDS = (
    *("model=tiny", "logger=none", SHORT_DEMO, "data.limit=60", "tune=head", "optim.head_lr=1e-2"),
    *("trainer.validations=1", "trainer.keep=weights", "head=ensemble", "head.members=3"),
)
PROMPT, RESPONSES = "What is 2 + 2?", ["Four.", "Five, I believe.", "That is four."]


@pytest.fixture(scope="module")
def command(tmp_path_factory, cache):
    command = CommandLine(tmp_path_factory.mktemp("head"), cache)
    command(*WORDS, "name=many")
    return command


@pytest.fixture(scope="module")
def run(command):
    return next(run for run in command.runs() if run.name.endswith("many"))


@pytest.fixture(scope="module")
def loaded(run):
    return package.load(run)


def test_members_their_mean_and_spread(loaded, run):
    found = loaded.score(PROMPT, RESPONSES, uncertainty=True)
    members_M_N = np.array(found.members)
    assert members_M_N.shape == (3, 3)
    assert found.std == pytest.approx(members_M_N.std(0))
    assert found.rewards == pytest.approx(loaded.score(PROMPT, RESPONSES), abs=1e-5)
    outputs = loaded.outputs(PROMPT, RESPONSES)
    assert list(outputs) == ["0", "1", "2"]
    assert outputs["1"] == pytest.approx(found.members[1])
    with pytest.raises(UserError, match="scale='raw'"):
        loaded.score(PROMPT, RESPONSES, uncertainty=True, scale="probability")
    for aggregate in ("min", "lcb"):
        other = package.load(run, aggregate=aggregate, lcb_lambda=0.5)
        wanted = aggregate_rewards(members_M_N, aggregate, 0.5)
        assert other.score(PROMPT, RESPONSES) == pytest.approx(wanted.tolist(), abs=1e-5)


def test_members_have_one_mean_on_val(run):
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(run / "predictions" / "val.parquet")
    outputs_N_K = np.array(table["outputs"].to_pylist())
    assert outputs_N_K.mean(1) == pytest.approx(np.array(table["reward"]), abs=1e-5)
    lines = json.loads((run / "calibration.json").read_text())["outputs"]
    shifted = outputs_N_K + np.array([lines[name][0] for name in ("0", "1", "2")])
    assert shifted.mean(0) == pytest.approx([outputs_N_K.mean()] * 3)


def test_checkpoint_and_export_give_the_same_members(run, loaded, tmp_path):
    """The checkpoint has them in its weights, the export beside its one label."""
    import shutil

    with safe_open(run / "export" / HEADS_FILE, "pt") as stored:
        assert stored.metadata() == {"kind": "ensemble", "names": '["0", "1", "2"]'}
        assert stored.get_slice("weight").get_shape()[0] == 3
    bare = tmp_path / "bare"
    shutil.copytree(run, bare, ignore=shutil.ignore_patterns("export"))
    other = package.load(bare)
    one, two = (m.score(PROMPT, RESPONSES, uncertainty=True) for m in (loaded, other))
    assert np.array(one.members) == pytest.approx(np.array(two.members), abs=1e-5)
    alone = package.load(run / "export")
    assert alone.score(PROMPT, RESPONSES, uncertainty=True).std == pytest.approx(one.std, abs=1e-5)


def test_the_export_alone_is_a_model_with_one_label(run, loaded):
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(run / "export")
    assert model.score.weight.shape[0] == 1
    assert not torch.equal(model.score.weight, torch.zeros_like(model.score.weight))


def test_a_model_with_one_reward_has_no_members(run, tmp_path):
    import shutil

    one = tmp_path / "one"
    shutil.copytree(run / "export", one, ignore=shutil.ignore_patterns("heads"))
    model = package.load(one)
    with pytest.raises(UserError, match="uncertainty=True needs several members"):
        model.score(PROMPT, RESPONSES, uncertainty=True)
    with pytest.raises(UserError, match="has one output, its reward"):
        model.outputs(PROMPT, RESPONSES)
    with pytest.raises(UserError, match="aggregate=min needs several rewards for a response"):
        package.load(one, aggregate="min")


def test_a_file_of_rewards_has_their_spread(command, run, write_rows, tmp_path, loaded):
    rows = write_rows([{"prompt": PROMPT, "response": response} for response in RESPONSES])
    out = tmp_path / "rewards.jsonl"
    words = ("task=score", f"checkpoint={run}", f"data.path={rows}", f"out={out}", "logger=none")
    command(*words, "aggregate=lcb", "lcb_lambda=1.0")
    found = [json.loads(line) for line in out.read_text().splitlines()]
    known = loaded.score(PROMPT, RESPONSES, uncertainty=True)
    assert [row["std"] for row in found] == pytest.approx(known.std, rel=1e-3, abs=1e-4)
    assert found[1]["members"] == pytest.approx([m[1] for m in known.members], rel=1e-3, abs=1e-4)
    wanted = np.array(known.rewards) - np.array(known.std)
    assert [row["reward"] for row in found] == pytest.approx(wanted.tolist(), rel=1e-3, abs=1e-4)


def test_a_server_gives_members_and_aggregates_as_asked(run, loaded):
    service = make_service(run)
    client, known = (
        TestClient(create_app(service, None)),
        loaded.score(PROMPT, RESPONSES, uncertainty=True),
    )
    body = {"prompt": PROMPT, "responses": RESPONSES}
    found = client.post("/reward", json=body | {"uncertainty": True}).json()
    assert found["rewards"] == pytest.approx(known.rewards, abs=1e-4)
    assert found["std"] == pytest.approx(known.std, abs=1e-4)
    assert np.array(found["members"]) == pytest.approx(np.array(known.members), abs=1e-4)
    lowest = client.post("/reward", json=body | {"aggregate": "min"}).json()
    assert lowest["rewards"] == pytest.approx(np.min(known.members, axis=0), abs=1e-4)
    assert "members" not in lowest
    refused = client.post("/reward", json=body | {"uncertainty": True, "scale": "rating"})
    assert refused.status_code == 422
    service.close()


def test_a_server_of_one_reward_has_no_members(tmp_path):
    service = make_service(write_model(tmp_path / "one"))
    body = {"prompt": PROMPT, "responses": RESPONSES, "aggregate": "lcb"}
    refused = TestClient(create_app(service, None)).post("/reward", json=body)
    assert refused.status_code == 422
    assert "the model has one reward for a response" in refused.text
    service.close()


def test_another_set_is_compared_with_the_runs_own_test(command, run, write_rows):
    rows = [
        {"prompt": f"q{n} ({n * n})", "chosen": f"yes {n}", "rejected": f"no, {n} times"}
        for n in range(12)
    ]
    command(
        *("task=evaluate", f"checkpoint={run}", "data=jsonl", f"data.path={write_rows(rows)}"),
        *("task.probes=false", "logger=none", "name=other"),
    )
    evaluated = next(run for run in command.runs() if run.name.endswith("other"))
    metrics, own = result(evaluated)["metrics"], result(run)["metrics"]
    ratio = metrics["all/uncertainty"] / own["test/uncertainty"]
    assert metrics["all/uncertainty_ratio"] == pytest.approx(ratio)
    assert metrics["all/loss"] > 0, "the mean of the members' losses"
