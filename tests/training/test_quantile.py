"""head=quantile: what it trains with, and what its quantiles are worth."""

import json

import numpy as np
import pytest
import torch

from rmexp.losses.outputs import QuantileLosses
from rmexp.models.head_file import HEADS_FILE
from rmexp.models.reward_head import MultiOutputHead
from tests.conftest import result
from tests.helpers.options import from_conf


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("loss=contrastive",), "with loss=pinball, not with loss=contrastive"),
        (("loss=pinball", "head.quantiles=[0.5,0.1]"), "should be two or more levels, increasing"),
        (("loss=pinball", "head.quantiles=[0.5,1.5]"), "above 0 and below 1"),
    ],
)
def test_what_it_cannot_be_combined_with_is_said_before_a_model_loads(rmexp, words, sentence):
    done = rmexp("model=tiny", "logger=none", "head=quantile", *words, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert rmexp.runs() == []


def test_sorting_quantiles_never_costs_more_and_leaves_the_reward():
    """So the reward is one linear head, and the quantiles that are read do not cross."""
    generator = torch.Generator().manual_seed(0)
    outputs_N_K = torch.randn(50, 5, generator=generator)
    targets_N = torch.randn(50, generator=generator)
    head = MultiOutputHead(4, False, "quantile", list("abcde"), [0.2] * 5)
    losses = QuantileLosses(from_conf("loss/pinball"), [0.1, 0.3, 0.5, 0.7, 0.9])
    assert [one.quantile for one in losses.losses] == [0.1, 0.3, 0.5, 0.7, 0.9]

    def costs(outputs_N_K):
        columns = zip(losses.losses, outputs_N_K.unbind(1), strict=True)
        return sum(one.values(column - targets_N) for one, column in columns)

    sorted_N_K = outputs_N_K.sort(1).values
    assert (costs(sorted_N_K) <= costs(outputs_N_K) + 1e-6).all()
    assert torch.allclose(head.rewards(sorted_N_K), head.rewards(outputs_N_K), atol=1e-6)


@pytest.mark.slow
def test_a_run_reports_coverage_in_the_unit_of_the_ratings(rmexp, write_rows):
    rng = np.random.default_rng(0)
    rows = [
        {"prompt": f"q{n}", "response": f"answer {n}", "rating": 50 + 10 * rng.normal()}
        for n in range(120)
    ]
    rmexp(
        *("model=tiny", "logger=none", "data=jsonl", f"data.path={write_rows(rows)}"),
        *("tune=head", "head=quantile", "loss=pinball", "trainer.max_epochs=3"),
        *("optim.head_lr=1e-2", "trainer.validations=1", "data.test_share=0.3"),
    )
    (run,) = rmexp.runs()
    metrics = result(run)["metrics"]
    assert metrics["test/interval_nominal"] == pytest.approx(0.8)
    assert 0 <= metrics["test/interval_coverage"] <= 1
    assert metrics["test/interval_coverage_low"] <= metrics["test/interval_coverage"]
    assert 1 < metrics["test/interval_width"] < 60, "in ratings, whose deviation is 10"
    shares = [metrics[f"test/quantile_{q}/share_below"] for q in ("0.1", "0.3", "0.5", "0.7")]
    assert shares == sorted(shares)
    lines = json.loads((run / "calibration.json").read_text())["outputs"]
    assert set(lines) == {"0.1", "0.3", "0.5", "0.7", "0.9"}
    mean, std = lines["0.1"]
    assert (mean, std) == pytest.approx((50, 10), rel=0.15)
    assert (run / "export" / HEADS_FILE).is_file()
