"""Values in other scripts and with special characters are read as the text that they are."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from rmexp.config.compose import compose_config
from rmexp.config.quoting import quote_values, quoted_command
from rmexp.core.errors import UserError


def read(word):
    override = OverridesParser.create().parse_override(word)
    return (
        [*map(str, override.sweep_string_iterator())]
        if override.is_sweep_override()
        else override.value()
    )


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("name=实验", "实验"),
        ("data.path=~/a=b #1.jsonl", "~/a=b #1.jsonl"),
        ("template.system=请用${seed}", "请用${seed}"),
        ("name=C:\\数据\\", "C:\\数据\\"),
        ("runs=[实验, outputs/b]", ["实验", "outputs/b"]),
        ("seed=0,1", ["0", "1"]),
        ("loss.margin=1.5", 1.5),
    ],
)
def test_values_that_hydra_cannot_read_are_quoted(word, value):
    (quoted,) = quote_values([word])
    assert read(quoted) == value


def test_a_sweep_of_names_stays_a_sweep():
    assert quote_values(["name=一,二", "-m", "--help"]) == ["name='一','二'", "-m", "--help"]


@pytest.mark.slow
@given(st.text(st.characters(codec="utf-8", exclude_characters="[],(){}\"'$\n\r\0"), min_size=1))
def test_plain_text_keeps_its_meaning(text):
    (quoted,) = quote_values([f"name={text}"])
    value = read(quoted)
    assert quoted == f"name={text}" or value == text


@pytest.mark.parametrize("value", ["it's", 'a "b" 中', "[1", "f(中)"])
def test_a_value_that_stays_unreadable_is_shown_quoted(value):
    word = f"name={value}"
    assert quote_values([word]) == [word]
    with pytest.raises(UserError) as caught:
        compose_config([word])
    assert f"quote its value: {quoted_command(word)}." in str(caught.value)


def test_a_word_without_a_value_is_named():
    with pytest.raises(UserError, match=r"Cannot read the override '数据.jsonl'; write KEY=VALUE"):
        compose_config(["数据.jsonl"])
