"""head=ensemble: each member learns what it would learn alone, whichever way the run trains."""

import json

import numpy as np
import pytest
import torch

from rmexp.losses.outputs import MemberLosses
from rmexp.models.head_file import HEADS_FILE
from rmexp.training.step_terms import normalise_terms
from tests.conftest import SHORT_DEMO, result
from tests.helpers.options import from_conf
from tests.helpers.servers import write_model
from tests.helpers.toys import toy_batch, toy_comparison

WORDS = (
    *("model=tiny", "logger=none", SHORT_DEMO, "data.limit=60", "tune=head"),
    *("trainer.max_epochs=2", "trainer.precision=32-true", "optim.head_lr=1e-2"),
    *("optim.clip=null", "trainer.keep=weights"),
)


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def heads(run):
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    return stored["model.score.weight"]


@pytest.mark.slow
def test_members_side_by_side_with_other_heads_and_alone(rmexp):
    done = rmexp("-m", *WORDS, "head=linear,ensemble", "loss=contrastive,ties")
    assert done.stdout.count("4 heads train side by side") == 1
    together = {run.name: run for run in rmexp.runs()}
    rmexp(*WORDS, "head=ensemble", "loss=ties", "name=alone")
    (alone,) = (run for run in rmexp.runs() if run.name.endswith("alone"))
    (same,) = (run for name, run in together.items() if "ensemble" in name and "ties" in name)
    for first, second in zip(lines(alone), lines(same), strict=True):
        assert first == pytest.approx(second, rel=1e-4, abs=1e-5)
    assert heads(alone).shape == heads(same).shape == (8, heads(alone).shape[1])
    assert torch.allclose(heads(alone), heads(same), atol=1e-5)
    assert result(alone)["labels"]["head"] == "ensemble"
    assert "head" not in result(next(r for n, r in together.items() if "linear" in n))["labels"]
    assert (alone / "export" / HEADS_FILE).is_file()
    learnt = json.loads((alone / "loss.json").read_text())
    assert {name.split(".")[1] for name in learnt} == {str(k) for k in range(8)}


@pytest.mark.slow
def test_a_member_without_bootstrap_is_the_run_of_its_seed(rmexp):
    """The first one is drawn by the run's seed; the mean over members only scales its gradient."""
    rmexp(*WORDS, "trainer.validations=1", "name=linear")
    rmexp(*WORDS, "trainer.validations=1", "name=many", "head=ensemble", "head.bootstrap=false")
    linear, many = (next(r for r in rmexp.runs() if r.name.endswith(n)) for n in ("linear", "many"))
    assert torch.allclose(heads(many)[:1], heads(linear), atol=1e-4)
    assert not torch.allclose(heads(many)[1], heads(linear)[0], atol=1e-1)


def test_members_that_would_stay_equal_are_refused_before_the_model_loads(rmexp, tmp_path):
    home = write_model(tmp_path / "trained")
    words = ("model=hf", f"model.path={home}", "head=ensemble", "head.bootstrap=false")
    done = rmexp(*words, "logger=none", check=False)
    assert "head.bootstrap=false: the checkpoint has a reward head" in done.stderr
    assert rmexp.runs() == []


def test_a_bootstrap_weighs_prompts_and_leaves_the_total_weight():
    """A prompt that is drawn twice counts twice; dividing by its own weight would undo that."""
    rows = [toy_comparison(2, row=0, pairs=[[0, 1, 1]]), toy_comparison(2, row=1, weight=3.0)]
    batch, loss = toy_batch(*rows), from_conf("loss/bradley_terry")
    members = MemberLosses(loss, ["0", "1"], np.array([[2, 0], [1, 1]], dtype=np.uint8))
    outputs_N_K = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    totals = members.total_weights([batch])
    assert totals == {"0.pairs": 4.0, "1.pairs": 4.0}
    found = normalise_terms(members.of_outputs(outputs_N_K, batch), totals)
    values = [loss(outputs_N_K[:, k], batch)["pairs"][0] for k in range(2)]
    first = (2 * 1 * values[0][0] + 3 * values[0][1]) / 4
    second = 3 * values[1][1] / 4
    assert found == pytest.approx(float((first + second) / 2))
