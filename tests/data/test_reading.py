"""Files -> rows -> splits: every source, bad rows placed and counted, no prompt in two splits."""

import csv
import gzip
import json

import datasets
import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.core.errors import UserError
from rmexp.data.formats.auto import Auto
from rmexp.data.formats.hh import HH
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport, check_bad_rows
from rmexp.data.sources import BadRow, LeftOut, check_source, read_rows
from rmexp.data.splits import assign_splits
from tests.conftest import HH as HH_FILE
from tests.conftest import needs

ROWS = [{"prompt": f"question {n}", "chosen": "yes", "rejected": "no"} for n in range(4)]


def write_source(kind, folder):
    file = folder / f"rows.{kind}"
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    if kind == "jsonl":
        file.write_text(lines)
    elif kind == "jsonl.gz":
        file.write_bytes(gzip.compress(lines.encode()))
    elif kind == "json":
        file.write_text(json.dumps(ROWS))
    elif kind == "csv":
        with open(file, "w", newline="") as stream:
            writer = csv.DictWriter(stream, ROWS[0])
            writer.writeheader()
            writer.writerows(ROWS)
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    elif kind == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(str(file))
    return str(file)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "csv", "parquet", "saved"])
def test_every_source_gives_the_same_rows(kind, tmp_path):
    assert [raw.row for raw in read_rows(write_source(kind, tmp_path))] == ROWS


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("owner/name", {"split": None}),
        ("owner/name:train_prefs", {"split": "train_prefs"}),
    ],
)
def test_a_hub_data_set_or_one_of_its_splits(path, asked, monkeypatch):
    def load_dataset(name, **given):
        assert (name, given) == ("owner/name", asked)
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    check_source(path)
    assert [raw.row for raw in read_rows(path)] == ROWS


def test_a_file_of_a_hub_data_set(monkeypatch, tmp_path):
    file = write_source("jsonl.gz", tmp_path)

    def download(name, part, repo_type):
        assert (name, part, repo_type) == ("owner/name", "pairs/rows.jsonl.gz", "dataset")
        return file

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert [raw.row for raw in read_rows("owner/name:pairs/rows.jsonl.gz")] == ROWS


def test_what_a_format_leaves_out_is_counted_and_the_limit_counts_comparisons(write_rows):
    def twice(row):
        if row["prompt"] == "question 0":
            raise LeftOut("not wanted")
        return [Auto()(row)] * 2

    report = RowReport()
    found = list(read_comparisons({None: write_rows(ROWS)}, twice, report, limit=3))
    assert [one.prompt[0]["content"][-1] for one in found] == ["1", "1", "2"]
    assert report.dropped == {"not wanted": {"all": 1}}


def test_splits_of_a_saved_dataset_are_kept(tmp_path):
    parts = {"train": ROWS[:2], "validation": ROWS[2:3], "test": ROWS[3:]}
    datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in parts.items()}).save_to_disk(
        str(tmp_path / "d")
    )
    assert [raw.split for raw in read_rows(str(tmp_path / "d"))] == [
        "train",
        "train",
        "val",
        "test",
    ]


def test_rows_that_cannot_be_read_have_file_and_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    good = json.dumps(ROWS[0]).encode()
    file.write_bytes(b"\n".join([good, good[:-5], b'"text"', b'{"prompt": "\xff"}', b"", good]))
    rows = list(read_rows(str(file)))
    said = [str(raw.row).split(" (")[0] if isinstance(raw.row, BadRow) else "ok" for raw in rows]
    assert said == ["ok", "not JSON", "a JSON str, not an object", "not UTF-8", "ok"]
    assert str(rows[3].row) == "not UTF-8 (byte 12 is 0xff; data.encoding names another encoding)"
    assert [raw.place for raw in rows] == [f"{file}:{n}" for n in (1, 2, 3, 4, 6)]


def test_a_cut_gzip_is_refused_whole(tmp_path):
    file = tmp_path / "rows.jsonl.gz"
    whole = gzip.compress(
        "".join(
            json.dumps(r | {"id": str(np.random.default_rng(n).random())}) + "\n"
            for n, r in enumerate(ROWS * 200)
        ).encode()
    )
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"breaks off after .*; fetch the file again"):
        list(read_rows(str(file)))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("rows.json", "{]", "is not JSON"),
        ("rows.json", "3", "expected a JSON list"),
        ("rows.txt", "x", "cannot tell what is in it"),
        ("rows.parquet", "x", "is not a parquet file"),
    ],
)
def test_files_that_cannot_be_read_at_all(name, content, sentence, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=sentence):
        list(read_rows(str(tmp_path / name)))


def test_a_missing_file_suggests_a_neighbour(tmp_path):
    (tmp_path / "preferences.jsonl").write_text("")
    with pytest.raises(UserError, match=r"no such file; did you mean .*preferences\.jsonl\?"):
        list(read_rows(str(tmp_path / "preference.jsonl")))


def read_all(file, **options):
    report = RowReport()
    return list(read_comparisons({None: file}, Auto(), report, **options)), report


def test_ids_are_unique_and_limit_counts_comparisons(write_rows):
    rows = [
        ROWS[0] | {"id": "a"},
        {"prompt": "Q", "chosen": "a"},
        ROWS[1] | {"id": "a"},
        ROWS[2],
        ROWS[3],
    ]
    comparisons, report = read_all(write_rows(rows), limit=3)
    assert [c.id for c in comparisons] == ["a", "a#2", "row-4"]
    assert (report.read, dict(report.bad)) == (4, {"field 'rejected' is missing": 1})


@pytest.mark.parametrize(
    ("ids", "expected"),
    [("a a a#2", "a a#2 a#2#2"), ("a#2 a a", "a#2 a a#3"), ("a a#2 a a#2", "a a#2 a#3 a#2#2")],
)
def test_a_numbered_id_is_not_that_of_another_row(ids, expected, write_rows):
    rows = [ROWS[0] | {"id": name} for name in ids.split()]
    assert [c.id for c in read_all(write_rows(rows))[0]] == expected.split()


def test_bad_rows_stop_or_are_skipped_up_to_a_share(write_rows):
    file = write_rows([*ROWS, {"prompt": "Q", "chosen": "a"}])
    _, report = read_all(file)
    with pytest.raises(
        UserError, match=r"1 of 5 rows .*\n.*rows\.jsonl:5: field 'rejected' is missing"
    ):
        check_bad_rows(report, "raise", 1.0)
    with pytest.raises(UserError, match=r"20\.0%, more than data\.max_bad_share=0\.1"):
        check_bad_rows(report, "skip", 0.1)
    check_bad_rows(report, "skip", 0.2)


def test_report_survives_json():
    report = RowReport(read=3, kept=2)
    report.add_bad("f:1", "not JSON (x)")
    report.drop("too long", "s")
    report.trim("turns", "s")
    assert RowReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from([None, "train", "val", "test"])),
        min_size=1,
        max_size=60,
    ),
    st.integers(0, 5),
)
def test_no_prompt_is_ever_in_two_splits(rows, seed):
    keys, declared = [f"p{k}" for k, _ in rows], [split for _, split in rows]
    report = RowReport()
    splits = assign_splits(
        keys, declared, ["s"] * len(rows), {"val": 0.2, "test": 0.2}, seed, report
    )
    prompts = {name: {keys[i] for i in indices} for name, indices in splits.items()}
    assert (
        not prompts["train"] & prompts["val"]
        | prompts["train"] & prompts["test"]
        | prompts["val"] & prompts["test"]
    )
    dropped = sum(sum(c.values()) for c in report.dropped.values())
    assert sum(map(len, splits.values())) + dropped == len(rows)
    for name in ("val", "test"):  # what was declared and kept is where it was declared
        assert all(declared[i] in (None, name, "train") for i in splits[name])


def test_split_shares_are_of_prompts_and_stable_under_more_rows():
    keys = [f"p{n}" for n in range(100)]
    one = assign_splits(keys, [None] * 100, ["s"] * 100, {"val": 0.1, "test": 0.2}, 0, RowReport())
    assert [len(one[name]) for name in ("train", "val", "test")] == [70, 10, 20]
    twice = assign_splits(
        keys * 2, [None] * 200, ["s"] * 200, {"val": 0.1, "test": 0.2}, 0, RowReport()
    )
    assert [len(twice[name]) for name in ("train", "val", "test")] == [140, 20, 40]


@needs(HH_FILE)
def test_hh_as_published():
    report = RowReport()
    comparisons = list(read_comparisons({None: str(HH_FILE)}, HH(), report))
    assert (report.read, len(comparisons)) == (2312, 2299)
    assert dict(report.bad) == {
        "the two dialogues differ before their last answer": 5,
        "chosen is empty": 4,
        "roles out of order: 'assistant' follows 'assistant' in prompt": 4,
    }
