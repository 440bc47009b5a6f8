"""Ensembles among compared runs: standardised, aggregated, tested like runs."""

import dataclasses
import json

import pytest

from rmexp.analysis.compare.comparison_report import compare_runs
from rmexp.core.errors import UserError
from rmexp.evaluation.aggregate import Aggregation
from rmexp.evaluation.calibration import Calibration
from tests.helpers.run_directories import margin, write_run


def calibrated(home, gaps, std, seed=0, **facts):
    """A run whose rewards have the mean 0 and the standard deviation `std` on val."""
    write_run(home, gaps, config=margin(1.0, seed), **facts)
    scale = dataclasses.replace(Calibration(), reward_std=std)
    (home / "calibration.json").write_text(json.dumps(scale.to_dict()))
    return str(home)


@pytest.fixture
def members(tmp_path):
    """Two seeds; the second one's rewards are ten times as large. Each has two of three right."""
    a = calibrated(tmp_path / "a", [3.0, -1.0, 1.0], 1.0)
    return [a, calibrated(tmp_path / "b", [-10.0, 20.0, 10.0], 10.0, seed=1)]


def test_members_are_standardised_and_their_ensembles_are_entries(members):
    how = [Aggregation("mean", 0.5), Aggregation("min", 0.5), Aggregation("lcb", 0.25)]
    found = compare_runs(members, "test", "accuracy", "all", how)
    values = {row.group.name: row.value for row in found.rows}
    # gaps by the mean (1, 0.5, 1), the minimum (-1, -1, 1) and mean - std / 4 (0.5, 0.125, 1)
    assert values == {
        "mean of 2 runs": 1.0,
        "lcb of 2 runs": 1.0,
        "min of 2 runs": pytest.approx(1 / 3),
        "a (and 1 more seeds)": pytest.approx(2 / 3),
    }
    assert found.rows[0].group.runs[0].gaps_P.tolist() == [1.0, 0.5, 1.0]
    assert found.rows[0].group.runs[0].run.paths == [p.path for p in _runs(found, "a (and")]
    assert len(found.verdicts) == 6
    assert found.keys == []


def _runs(found, name):
    row = next(row for row in found.rows if row.group.name.startswith(name))
    return [one.run for one in row.group.runs]


def test_a_merged_run_is_an_entry_and_no_member(tmp_path, members):
    merged = calibrated(tmp_path / "m", [1.0, 1.0, 1.0], 1.0, task="merge", merged=members)
    found = compare_runs([*members, merged], "test", "accuracy", "best", [Aggregation("mean", 0.5)])
    names = [row.group.name for row in found.rows]
    assert sorted(names) == ["a (and 1 more seeds)", "mean of 2 runs", "merged=2 runs"]
    assert found.keys == ["merged"]


def test_a_file_is_standardised_by_itself(tmp_path, members):
    rows = [
        {"id": f"row-{n}", "response": k, "reward": 100.0 * (k == 0)}
        for n in range(3)
        for k in range(2)
    ]
    file = tmp_path / "peer.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.warns(UserWarning, match="peer has no calibration"):
        found = compare_runs(
            [*members, str(file)], "test", "accuracy", "best", [Aggregation("mean", 0.5)]
        )
    ensemble = next(one for row in found.rows for one in row.group.runs if one.run.members)
    assert ensemble.gaps_P == pytest.approx([(3 - 1 + 2) / 3, (-1 + 2 + 2) / 3, (1 + 1 + 2) / 3])


def test_what_is_no_ensemble_is_refused(tmp_path, members):
    mean = [Aggregation("mean", 0.5)]
    with pytest.raises(UserError, match="aggregate=mean needs two runs or more"):
        compare_runs(members[:1], "test", "accuracy", "best", mean)
    write_run(tmp_path / "bare", [1, 1, 0])
    with pytest.raises(UserError, match=r"bare has no calibration.json, .*task=score checkpoint="):
        compare_runs([*members, str(tmp_path / "bare")], "test", "accuracy", "best", mean)
