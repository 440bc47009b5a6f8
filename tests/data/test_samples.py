"""Sampled responses as data: grouped by prompt, rated by rewards, as random pairs with noise."""

import json

import pytest

from rmexp.core.errors import UserError
from rmexp.data.formats.samples import Samples
from rmexp.data.reader import read_comparisons
from rmexp.data.row_groups import grouped_rows
from rmexp.data.row_report import RowReport
from rmexp.data.sources import BadRow, RawRow
from tests.helpers.options import from_conf

ASK = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def samples(tmp_path):
    """Three prompts with four responses each; the rewards of two of the prompts."""
    rows = [
        {"id": f"p{n}", "prompt": ASK, "response": f"answer {k}" if k else "", "tokens": 2}
        for n in range(3)
        for k in range(4)
    ]
    rewards = [
        {"id": f"p{n}", "response": k, "reward": None if (n, k) == (1, 3) else float(k)}
        for n in range(2)
        for k in range(4)
    ]
    for name, content in (("samples", rows), ("rewards", rewards)):
        text = "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return tmp_path


def read(folder, report=None, **settings):
    format = {"_target_": "rmexp.data.formats.samples.Samples", **settings}
    data = from_conf("data/samples", path=str(folder / "samples.jsonl"), format=format)
    spec = data.source.spec
    report = RowReport() if report is None else report
    return list(read_comparisons(spec.paths, spec.parse, report, spec.limit))


def test_neighbours_with_one_id_are_one_comparison(samples):
    found = read(samples)
    assert [one.id for one in found] == ["p0", "p1", "p2"]
    assert [one.prompt for one in found] == [tuple(ASK)] * 3
    assert [m["content"] for (m,) in found[0].responses] == [
        "", "answer 1", "answer 2", "answer 3",
    ]  # fmt: skip
    assert found[0].ratings is None


def test_rewards_rate_responses_and_prompts_without_them_are_counted(samples):
    report = RowReport()
    found = read(samples, report, rewards=str(samples / "rewards.jsonl"))
    assert [one.ratings for one in found] == [(0.0, 1.0, 2.0, 3.0), (0.0, 1.0, 2.0, None)]
    assert sum(report.dropped[f"responses without a reward in {samples}/rewards.jsonl"].values())


def test_random_pairs_are_labelled_by_rewards_and_the_noise_flips_its_share(samples):
    given = {"rewards": str(samples / "rewards.jsonl")}
    clean = read(samples, pairs=5, **given)
    assert [one.id.split("/")[0] for one in clean] == ["p0"] * 5 + ["p1"] * 3
    for one in clean:
        rewards = [int(m["content"][-1:] or 0) for (m,) in one.responses]
        assert (rewards[0] > rewards[1]) == (one.judgements[0].i == 0)
    assert read(samples, pairs=5, **given) == clean
    assert [one.id for one in read(samples, pairs=2, seed=1, **given)] != [
        one.id for one in read(samples, pairs=2, **given)
    ]
    row = {"id": ["p"] * 4, "prompt": ["?"] * 4, "response": list("abcd"), "rating": [0, 1, 2, 3]}
    flipped = [
        one.judgements != other.judgements
        for seed in range(100)
        for one, other in zip(
            Samples(pairs=1, seed=seed)(row), Samples(pairs=1, seed=seed, noise=0.25)(row),
            strict=True,
        )
    ]  # fmt: skip
    assert sum(flipped) / len(flipped) == pytest.approx(0.25, abs=0.12)


def test_what_is_missing_is_said(samples):
    with pytest.raises(UserError, match=r"nowhere: there is no such file of rewards"):
        read(samples, rewards="nowhere")
    report = RowReport()
    assert not read(samples, report, pairs=1)
    assert report.bad == {"data.format.pairs needs ratings: give data.format.rewards=FILE": 3}


def test_rows_with_lists_of_responses_are_bad_rows():
    with pytest.raises(BadRow, match="data=jsonl lists of them"):
        Samples()({"id": ["a"], "prompt": [ASK], "responses": [["one", "two"]]})


def test_a_reference_rates_exact_matches(tmp_path):
    rows = [
        {"id": "p", "prompt": "2 + 2?", "response": text, "reference": "4"}
        for text in ("4", " 4\n", "5")
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "samples.jsonl").write_text(text)
    assert [one.ratings for one in read(tmp_path)] == [(1.0, 1.0, 0.0)]


def test_rows_without_an_id_are_groups_of_their_own():
    rows = [RawRow(str(n), {"id": name, "x": n}) for n, name in enumerate(("a", "a", None, None))]
    found = list(grouped_rows(rows, "id"))
    assert [(one.place, one.row["x"]) for one in found] == [("0", [0, 1]), ("2", [2]), ("3", [3])]
    assert list(grouped_rows(rows, None)) == rows
