"""Cache keys of tokenised rows cover settings and code."""

import functools
import importlib.util
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest

from rmexp.data.formats.column_map import ColumnMap
from rmexp.data.formats.preference import Preference
from rmexp.data.formats.row_filter import RowFilter
from rmexp.data.formats.votes import Votes
from rmexp.data.tokenize_spec import TokenizeSpec, _rows_fingerprint, hub_revision
from tests.helpers.toys import tiny_tokenizer

SOURCE = """
from rmexp.data.formats.preference import Preference

class Plain:
    def __init__(self, factor=1):
        self.factor = factor

    def __call__(self, row):
        return Preference()(row)

def read(row, factor=1):
    return Preference()(row)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    def load(name="one.py", source=SOURCE):
        (tmp_path / name).write_text(source)
        spec = importlib.util.spec_from_file_location("my_formats", tmp_path / name)
        loaded = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "my_formats", loaded)
        spec.loader.exec_module(loaded)
        return loaded

    return load


def key(parse, limit=None):
    return TokenizeSpec({None: "a/b"}, parse, limit, "raise", 0.01, 1.0, 64).key(None)


def test_formats_without_a_repr_have_the_same_key_each_time(module):
    first = module()
    keys = [key(first.Plain()), key(first.read)]
    again = module()
    assert [key(again.Plain()), key(again.read)] == keys
    assert key(again.Plain(2)) != key(again.Plain(1))
    assert key(functools.partial(again.read, factor=2)) != key(functools.partial(again.read))


def test_keys_cover_the_code_of_a_wrapped_format(module):
    def keys(formats):
        plain = (formats.Plain(), formats.read)
        return [key(ColumnMap(one, {"prompt": "q"})) for one in plain] + [
            key(RowFilter(one, {"a": 1})) for one in plain
        ]

    before = keys(module())
    after = keys(module("two.py", SOURCE + "\n# edited\n"))
    assert len({*before, *after}) == 8


def test_data_of_the_hub_counts_by_its_commit(monkeypatch, tmp_path):
    def found(sha):
        def dataset_info(self, name, timeout):
            if sha is None:
                raise ConnectionError
            return SimpleNamespace(sha=sha)

        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
        hub_revision.cache_clear()
        return tuple(_rows_fingerprint("owner/name:train"))

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    first, second, offline = found("abc"), found("def"), found(None)
    assert len({first, second, offline}) == 3
    (tmp_path / "datasets--owner--name" / "snapshots" / "def").mkdir(parents=True)
    assert found(None) == second, "offline, what was read last"
    hub_revision.cache_clear()


def test_keys_cover_settings_and_the_tokenizer():
    assert key(Votes()) == key(Votes())
    assert len({key(Votes()), key(Votes(a=("A",))), key(Preference()), key(Preference(), 3)}) == 4
    spec = TokenizeSpec({None: "a/b"}, Votes(), None, "raise", 0.01, 1.0, 64)
    assert spec.key(tiny_tokenizer()) != spec.key(None)
