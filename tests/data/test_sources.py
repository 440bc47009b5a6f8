"""Every container gives the same rows; what cannot be read ends in a sentence."""

import bz2
import csv
import gc
import gzip
import io
import json
import lzma
import re
import tempfile
from contextlib import suppress
from pathlib import Path

import datasets
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.core.errors import UserError
from rmexp.data.formats.auto import Auto
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport, check_bad_rows
from rmexp.data.sources import (
    BadRow,
    ReadOptions,
    arrow_rows,
    check_source,
    open_source,
    read_rows,
    streams,
)
from rmexp.data.sources.local_paths import SUFFIXES
from rmexp.data.sources.streams import SourceFile
from rmexp.data.tokenize_spec import TokenizeSpec

ROWS = [{"prompt": f"q{n}", "chosen": "yes", "rejected": "NA", "id": f"00{n}"} for n in range(4)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def as_arrow(opened):
    def write(rows):
        table, sink = pyarrow.Table.from_pylist(rows), pyarrow.BufferOutputStream()
        with opened(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()

    return write


def as_csv(separator):
    def write(rows):
        stream = io.StringIO(newline="")
        writer = csv.DictWriter(stream, rows[0], delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
        return stream.getvalue().encode()

    return write


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


CONTAINERS = {
    ".jsonl": as_lines,
    ".ndjson": lambda rows: "\n".join(json.dumps(r, indent=2) for r in rows).encode(),
    ".json": lambda rows: json.dumps(rows, indent=1).encode(),
    ".csv": as_csv(","),
    ".tsv": as_csv("\t"),
    ".parquet": as_arrow(pyarrow.parquet.ParquetWriter),
    ".arrow": as_arrow(pyarrow.ipc.new_stream),
}

COMPRESSED = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pyarrow.compress(content, codec="zstd", asbytes=True),
}


def read(path, **options):
    """Rows (the reason of a bad one), and the sentences on how they were read."""
    notes = []
    rows = list(read_rows(path, options=ReadOptions(**options), note=notes.append))
    return [str(r.row) if isinstance(r.row, BadRow) else r.row for r in rows], notes


@pytest.mark.parametrize("packed", COMPRESSED)
@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_gives_the_same_rows(kind, packed, tmp_path):
    file = tmp_path / f"rows{kind}{packed}"
    file.write_bytes(COMPRESSED[packed](CONTAINERS[kind](ROWS)))
    assert read(str(file)) == (ROWS, [])


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("r.jsonl", json.dumps(ROWS, indent=1), []),
        ("r.jsonl", json.dumps(ROWS), []),
        ("r.json", LINES, []),
        (
            "r.json",
            json.dumps({"version": 1, "data": ROWS}),
            ["r.json: the rows are its list data"],
        ),
        ("r.jsonl", b"\xef\xbb\xbf" + LINES.encode(), []),
        ("r.jsonl", LINES.encode("utf-16"), ["r.jsonl: read as UTF-16"]),
        ("r.jsonl", LINES.encode("utf-16-le"), ["r.jsonl: read as UTF-16-LE"]),
        ("r.csv", as_csv(",")(ROWS).decode().encode("utf-16"), ["r.csv: read as UTF-16"]),
        ("r.csv", as_csv(";")(ROWS), ["r.csv: separated by semicolon"]),
        ("r.csv", as_csv("\t")(ROWS), ["r.csv: separated by tab"]),
        ("r.jsonl", CONTAINERS[".parquet"](ROWS), ["r.jsonl: read as parquet, which it is"]),
        ("r.arrow", as_arrow(pyarrow.ipc.new_file)(ROWS), []),
    ],
)
def test_content_counts_and_not_the_name(name, content, note, tmp_path):
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    assert read(str(tmp_path / name)) == (ROWS, note)


@pytest.mark.parametrize(
    ("name", "content", "cells", "note"),
    [
        ("r.csv", 'a,b\n"x \\"y\\" z",1\n', 'x "y" z', "comma, quotes escaped by a backslash"),
        ("r.tsv", 'a\tb\n"x" y\t1\n', '"x" y', "tab, quotes are text"),
    ],
)
def test_quoting_is_told_from_the_file(name, content, cells, note, tmp_path):
    (tmp_path / name).write_text(content)
    expected = [{"a": cells, "b": "1"}]
    assert read(str(tmp_path / name)) == (expected, [f"{name}: separated by {note}"])


def test_bad_rows_of_a_csv_have_the_line_where_they_begin(tmp_path):
    long = "x" * 200_000
    (tmp_path / "r.csv").write_text(f'a,b\n"1\n2",3\n4\n"5" 6,7\n{long},8\n')
    rows = list(read_rows(str(tmp_path / "r.csv")))
    assert [raw.place.rpartition(":")[2] for raw in rows] == ["2", "4", "5", "6"]
    assert [str(raw.row) for raw in rows[1:3]] == [
        "not the 2 cells of the header (1)",
        "not CSV (',' expected after '\"')",
    ]
    assert rows[0].row == {"a": "1\n2", "b": "3"}
    assert rows[3].row == {"a": long, "b": "8"}


def test_an_encoding_is_asked_for_in_one_sentence(tmp_path):
    file, rows = tmp_path / "r.jsonl", [{"prompt": "问题", "chosen": "好的"}] * 4
    file.write_bytes("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode("gbk"))
    with pytest.raises(UserError, match=r"not UTF-8 .*data\.encoding=gb18030 or"):
        read(str(file))
    assert read(str(file), encoding="gb18030") == (rows, [])
    with pytest.raises(UserError, match="Python knows no such encoding"):
        ReadOptions(encoding="klingon")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[" * 100_000, "nested more than 100 deep"),
        ('{"a": ' + "[" * 300 + "]" * 300 + "}", "a is nested more than 100 deep"),
        ('{"subset": "x\\ud83d"}', "subset is not valid Unicode (at character 1)"),
        ('{"tools": [{"\\udc00": 1}]}', "tools is not valid Unicode (at character 0)"),
        ('{"\\ud83d": 1}', "the name of a column is not valid Unicode"),
        ('{"margin": ' + "9" * 5000 + "}", "a number of thousands of digits"),
        ('{"a": "' + "x" * 2**26 + '"}', "larger than 64 MiB"),
    ],
)
def test_a_row_that_no_format_can_use_is_bad(line, reason, tmp_path):
    file = tmp_path / "r.jsonl.gz"
    file.write_bytes(gzip.compress(f'{line}\n{{"emoji": "\\ud83d\\ude00"}}\n'.encode(), 1))
    bad, good = read(str(file))[0]
    assert bad.startswith(reason)
    assert good == {"emoji": "😀"}


def test_small_files_that_hold_a_huge_row_or_document(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow_rows, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(streams, "MAX_ROW_BYTES", 1000)
    file = str(tmp_path / "r.parquet")
    table = pyarrow.table({"prompt": ["x" * 1001, "small"]})
    pyarrow.parquet.write_table(table, file, compression="zstd")
    bad, good = read(file)[0]
    assert bad.startswith("larger than")
    assert good == {"prompt": "small"}
    (tmp_path / "r.json.gz").write_bytes(gzip.compress(b"[" + b" " * 2**21 + b"]"))
    with pytest.raises(UserError, match="more than 200 times its size"):
        read(str(tmp_path / "r.json.gz"))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("r.jsonl", "version https://git-lfs.github.com/spec/v1\noid x", "run `git lfs pull`"),
        ("r.parquet", "version https://git-lfs.github.com/spec/v1\noid x", "run `git lfs pull`"),
        ("r.jsonl", "<!DOCTYPE html><html>", "is a web page, not the data"),
        ("r.csv", "prompt,chosen,prompt\na,b,c\n", r"'prompt' twice \(columns 1 and 3\)"),
        ("r.csv", 'prompt,chosen\na,b\n"c,d\n', "r.csv:3 is not CSV .a quote that opens here"),
        ("r.json", '[{"a": 1}, {"a": 2]', "is not JSON"),
        ("r.json", '[{"a": 1}] [2]', "is not JSON .Extra data"),
        ("r.json", '{"a": {"0": 1}, "b": {"0": 1}}', r"to_json\(orient="),
        ("r.parquet", "", "is empty"),
        ("r.parquet", "PAR1" + "0" * 50, "is not a parquet file"),
        ("r.arrow", "junk" * 9, "is not an Arrow file"),
        ("r.tar.gz", "x", "r.tar.gz: unpack it"),
        ("r.xlsx", "x", "save the sheet as .csv"),
        ("r.pkl", "x", "a pickle can run code"),
    ],
)
def test_a_file_that_is_no_data_ends_in_one_sentence(name, content, sentence, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=sentence):
        read(str(tmp_path / name))


@pytest.mark.parametrize(
    ("path", "fix"),
    [
        ("https://x.org/r.jsonl", "is an address: download it, and give its path."),
        ("hf://datasets/a/b/c/d.jsonl", "or say data.path=a/b:c/d.jsonl."),
    ],
)
def test_an_address_is_no_path(path, fix):
    with pytest.raises(UserError, match=re.escape(fix)):
        check_source(path)


def test_objects_with_commas_between_them_are_rows(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"a": 1},\n{"a": 2},\n{"a": 3}\n')
    assert read(str(tmp_path / "r.jsonl"))[0] == [{"a": 1}, {"a": 2}, {"a": 3}]


def write_all(folder, **files):
    """Files with one row each, that says which file it is of; `__` is a folder."""
    for name in files:
        file = folder / name.replace("__", "/").replace("_DOT_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"of": name}) + "\n")


def homes(path, **options):
    """Split -> its files."""
    found = {}
    for part in open_source(path, options=ReadOptions(**options)):
        found.setdefault(part.split, []).extend(raw.row["of"] for raw in part.rows)
    return found


def test_files_are_splits_by_exact_names(tmp_path, monkeypatch):
    names = ("part-0", "part-1", "test", "dev_0", "my_test", "validation-00000-of-00002-0a1b2c3d4e")
    write_all(
        tmp_path / "d", **{f"{name}_DOT_jsonl": 0 for name in names}, sub__train__x_DOT_json=0
    )
    (tmp_path / "d" / "README.md").write_text("# Rows")
    found = homes(str(tmp_path / "d"))
    assert {split: len(files) for split, files in found.items()} == {
        "train": 4,
        "val": 2,
        "test": 1,
    }
    notes = read(str(tmp_path / "d"))[1]
    assert [note.replace(str(tmp_path), "") for note in notes] == [
        "/d: no data, not read: README.md",
        "my_test.jsonl is not taken for a split by its name: only train, val and test are",
        "/d: train is my_test.jsonl, part-0.jsonl, part-1.jsonl, x.json; "
        "val is dev_0.jsonl, validation-00000-of-00002-0a1b2c3d4e.jsonl; test is test.jsonl",
    ]
    monkeypatch.chdir(tmp_path)
    assert homes("d:test") == {None: ["test_DOT_jsonl"]}
    assert homes("d/part-*.jsonl") == {None: ["part-0_DOT_jsonl", "part-1_DOT_jsonl"]}
    assert set(homes(["d/part-0.jsonl", "d/test.jsonl"])) == {"train", "test"}
    with pytest.raises(UserError, match=r"d:gen has no split gen; it has dev"):
        homes("d:gen")
    with pytest.raises(UserError, match="name the split to read, d:"):
        open_source("d", "val")


def test_unknown_splits_are_offered_and_can_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shard = "-00000-of-00001_DOT_jsonl"
    write_all(tmp_path, **{f"d__{name}{shard}": 0 for name in ("train_prefs", "test_prefs")})
    with pytest.raises(UserError) as refused:
        homes("d")
    assert "data.path=d:train_prefs data.test_path=d:test_prefs" in str(refused.value)
    assert "'data.split_names={test_prefs: test, train_prefs: train}'" in str(refused.value)
    given = {"test_prefs": "test", "train_prefs": "train"}
    assert set(homes("d", split_names=given)) == {"train", "test"}
    assert set(homes("d", split_names=given | {"test_prefs": None})) == {"train"}


def test_a_clone_with_configurations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_all(tmp_path, c__x__0_DOT_jsonl=0, c__y__0_DOT_jsonl=0)
    entries = [
        {"config_name": n, "data_files": [{"split": "train", "path": f"{n}/*"}]} for n in "xy"
    ]
    (tmp_path / "c" / "README.md").write_text(f"---\nconfigs: {json.dumps(entries)}\n---\n# Rows")
    with pytest.raises(
        UserError, match=r"several configurations \(x, y\): choose one, data.path=c@x"
    ):
        homes("c")
    assert homes("c@y") == homes("c@y:train") == {None: ["c__y__0_DOT_jsonl"]}
    with pytest.raises(UserError, match=r"no configuration z \(x, y\)"):
        homes("c@z")


def test_the_same_name_in_two_containers_is_refused(tmp_path):
    write_all(tmp_path, a_DOT_jsonl=0, a_DOT_json=0)
    with pytest.raises(UserError, match=r"a\.json and a\.jsonl, perhaps the same rows"):
        homes(str(tmp_path))


def test_a_configuration_of_a_hub_data_set(monkeypatch):
    def load_dataset(*names, split):
        assert (names, split) == (("owner/name", "config"), "train")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read("owner/name@config:train")[0] == ROWS


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("d/tset.jsonl", "d/test.jsonl"), ("D/test.jsonl", "d"), ("d/test.csv", "d/test.jsonl")],
)
def test_a_wrong_path_names_near_ones(wrong, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_all(tmp_path, d__test_DOT_jsonl=0)
    with pytest.raises(UserError, match=f"did you mean {near}"):
        read(wrong)


def test_a_fingerprint_covers_lists_patterns_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_all(tmp_path, d__a_DOT_jsonl=0, d__b_DOT_jsonl=0)
    asked = ("d", "d/*.jsonl", ["d/a.jsonl", "d/b.jsonl"])

    def keys():
        return [TokenizeSpec({None: p}, Auto(), None, "raise", 0, 1, 9).source_key for p in asked]

    before = keys()
    assert keys() == before
    (tmp_path / "d" / "b.jsonl").write_text("{}\n{}\n")
    assert all(one != other for one, other in zip(before, keys(), strict=True))


def test_a_limit_takes_of_each_split(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(LINES)
    found = list(read_comparisons({None: str(tmp_path)}, Auto(), RowReport(), limit=2))
    assert [one.split for one in found] == ["train", "train", "test", "test"]


SPLITS = ["train_prefs", "gpt-4o"]


def test_a_column_of_foreign_splits_is_offered_with_both_ways_out(write_rows):
    rows = [row | {"split": name} for row, name in zip(ROWS, SPLITS * 2, strict=True)]
    report, file = RowReport(), write_rows(rows)
    assert list(read_comparisons({None: file}, Auto(), report)) == []
    with pytest.raises(UserError) as refused:
        check_bad_rows(report, "raise", 1.0)
    assert "'data.split_names={train_prefs: train, gpt-4o: null}'" in str(refused.value)
    assert "data.fields.split=null" in str(refused.value)
    options = ReadOptions(split_names={"train_prefs": "train", "gpt-4o": None})
    report = RowReport()
    found = list(read_comparisons({None: file}, Auto(), report, options=options))
    assert [one.split for one in found] == ["train", "train"]
    assert report.dropped == {"split gpt-4o, as data.split_names says": {"all": 2}}


# -- laws --------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | texts,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(texts, part, max_size=3),
    max_leaves=8,
)
NAMES = """prompt question chosen rejected responses ratings rating response label margin weight
split id subset messages completions labels rejected_response tools language conversations"""
columns = st.sampled_from(NAMES.split())
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": texts}
    ),
    max_size=3,
)
any_rows = st.lists(
    st.dictionaries(
        columns | texts, values | texts | messages | messages.map(json.dumps), max_size=6
    ),
    min_size=1,
    max_size=6,
)


@given(any_rows)
def test_any_objects_are_the_same_rows_as_lines_and_as_a_list(rows):
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for kind in (".jsonl", ".json"):
            file = Path(folder, f"r{kind}")
            file.write_bytes(CONTAINERS[kind](rows))
            found.append(repr(read(str(file))[0]))
    assert found == [repr(rows)] * 2


@given(st.lists(st.tuples(texts, texts), max_size=6))
def test_any_text_survives_a_csv(rows):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "r.csv")
        file.write_bytes(as_csv(",")([{"a": "x", "b": "y"}, *({"a": a, "b": b} for a, b in rows)]))
        assert [tuple(row.values()) for row in read(str(file))[0][1:]] == rows


@given(
    st.binary(max_size=200)
    | st.sampled_from(sorted(CONTAINERS)).map(lambda k: CONTAINERS[k](ROWS)),
    st.sampled_from(sorted(COMPRESSED)),
    st.sampled_from(SUFFIXES),
    st.floats(0.3, 1),
)
def test_any_bytes_under_any_suffix_end_in_rows_or_in_a_sentence(content, packed, suffix, share):
    content = COMPRESSED[packed](content)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"r{suffix}")
        file.write_bytes(content[: round(len(content) * share)])
        with suppress(UserError):
            assert all(isinstance(row, dict | str) for row in read(str(file))[0])


@given(any_rows)
def test_any_mixture_of_layouts_ends_in_counts_that_add_up(rows):
    report = RowReport()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "r.jsonl")
        file.write_bytes(as_lines(rows))
        found = list(read_comparisons({None: str(file)}, Auto(), report))
    assert len({one.id for one in found}) == len(found)
    dropped = sum(sum(subsets.values()) for subsets in report.dropped.values())
    assert report.read == len(rows) == len(found) + sum(report.bad.values()) + dropped


def test_the_beginning_of_one_shard_at_a_time_is_in_memory(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(ROWS[0]))

    def is_shard(one):
        return type(one) is SourceFile and tmp_path in one.path.parents

    there = [sum(map(is_shard, gc.get_objects())) for _ in read_rows(str(tmp_path))]
    assert there == [1, 1, 1, 1]
