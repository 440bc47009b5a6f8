"""Fallbacks are recorded by the innermost collector, or are warnings."""

import pytest

from rmexp.core.errors import collect_fallbacks, note_fallback


def test_the_innermost_collector_records():
    outer, inner = [], []
    with collect_fallbacks(outer.append):
        note_fallback("one")
        with collect_fallbacks(inner.append):
            note_fallback("two")
        note_fallback("three")
    assert (outer, inner) == (["one", "three"], ["two"])


def test_without_a_collector_it_is_a_warning_at_the_caller():
    with pytest.warns(UserWarning, match="slower path") as caught:
        note_fallback("slower path")
    assert len(caught) == 1


def test_an_error_ends_the_collection():
    with pytest.raises(RuntimeError), collect_fallbacks([].append):
        raise RuntimeError
    with pytest.warns(UserWarning, match="again"):
        note_fallback("again")
