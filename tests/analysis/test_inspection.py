"""task=inspect: what it finds in toy rows, exactly, and on data through the command line."""

import json
import math
from collections import Counter

import pytest

from rmexp.analysis.inspect import duplicates, length_and_labels
from rmexp.analysis.inspect.agreement import agreement
from rmexp.analysis.inspect.examples import example_texts, shared_length
from rmexp.analysis.inspect.first_look import first_look
from rmexp.analysis.inspect.leakage import overlaps, similarity
from rmexp.analysis.inspect.prompts import Prompt, prompt_text, read_prompts
from rmexp.analysis.inspect.rows import RowFacts
from rmexp.analysis.inspect.summary import read_data, warnings
from rmexp.config.compose import build, compose_config
from rmexp.config.schema import register
from rmexp.core.errors import UserError
from rmexp.data.row_report import RowReport
from rmexp.models.tiny import Tiny
from tests.conftest import SHARED, needs

register()

UKP = SHARED / "ukp_convarg1" / "all_pairs_with_votes.jsonl.gz"
BUS = "How do I get from the airport to the city centre by bus on a Sunday evening?"
BUS_AGAIN = "How do I get from the airport to the town centre by bus on a sunday evening"
KITE = "Please write a short poem about the wind, a red kite and my grandmother's garden."
FLOWERS = "请写一首关于春天的短诗，要提到桃花、燕子和小河，不要超过四句。"
FLOWERS_AGAIN = "请写一首关于春天的短诗，要提到樱花、燕子和小河，不要超过四句"
RIVER = "长江和黄河哪一条更长？请说明它们的长度和发源地。"


def toy(name, responses=("a", "b"), pairs=((0, 1, 1),), prompt="p", tokens=(5, 4), **more):
    """A row of a training split; equal letters are equal responses."""
    usual = {
        "place": f"rows.jsonl:{name}",
        "split": "train",
        "subset": "all",
        "language": None,
        "characters": tokens,
        "size": sum(tokens),
        "ratings": (math.nan,) * len(responses),
        "votes": (),
    }
    hashes = tuple(map(ord, responses))
    return RowFacts(
        id=name, prompt=prompt, responses=hashes, tokens=tokens, pairs=pairs, **usual | more
    )


# --------------------------------------------------------------------- repeats
def test_a_duplicate_has_the_prompt_and_the_responses_in_any_order():
    rows = [
        toy("1"),
        toy("2", ("b", "a")),
        toy("3", ("a", "c")),
        toy("4", prompt="another"),
        toy("5", ("a", "b"), pairs=()),
    ]
    found = duplicates.duplicates(rows)
    assert (found["rows"], found["share"]) == (2, 0.4)
    assert [[one["id"], other["id"]] for one, other in found["examples"]] == [
        ["1", "2"],
        ["1", "5"],
    ]


def test_a_contradiction_is_one_pair_of_texts_judged_both_ways():
    rows = [
        toy("1"),  # a > b
        toy("2", ("b", "a")),  # b > a: against 1
        toy("3", ("b", "a"), pairs=((0, 1, 0),)),  # a tie contradicts nobody
        toy("4", ("b", "a"), prompt="another"),  # of another prompt
        toy("5", ("c", "a", "b"), pairs=((0, 1, 1), (0, 2, 1))),
    ]
    found = duplicates.contradictions(rows)
    assert (found["pairs"], found["judged"], found["share"]) == (1, 4, 0.25)
    assert [row["id"] for row in found["examples"][0]] == ["1", "2"]


# --------------------------------------------------------------------- leakage
def test_near_duplicates_in_english_and_chinese():
    assert similarity(BUS, BUS_AGAIN) > 0.7
    assert similarity(FLOWERS, FLOWERS_AGAIN) > 0.7
    assert similarity(BUS, KITE) < 0.1
    assert similarity(FLOWERS, RIVER) < 0.1
    assert similarity("Ｈｅｌｌｏ，  World!", "hello world") == 1
    assert similarity("?", "!") == 0, "punctuation alone is all there is"


def test_val_and_test_are_looked_for_in_train_and_other_sets_everywhere():
    homes = {"bus": (BUS, "train"), "kite": (KITE, "val"), "flowers": (FLOWERS, "train")}
    prompts = [Prompt(text, home, name) for name, (text, home) in homes.items()]
    prompts += [Prompt(BUS_AGAIN, "test", "again"), Prompt(RIVER, "test", "river")]
    others = [Prompt(FLOWERS_AGAIN, "suite", "1"), Prompt(KITE, "suite", "2")]
    found = overlaps(prompts, others)
    assert {home: (o.near, o.prompts) for home, o in found.items()} == {
        "val": (0, 1),
        "test": (1, 2),
        "suite": (2, 2),
    }
    (example,) = found["test"].examples
    assert (example["one"]["id"], example["other"]["id"]) == ("again", "bus")
    assert example["similarity"] == similarity(BUS, BUS_AGAIN)
    exact, near = found["suite"].examples
    assert (exact["similarity"], exact["other"]["home"]) == (1, "val")
    assert near["other"]["id"] == "flowers"


def test_an_instruction_that_all_prompts_share_makes_no_duplicates():
    asked = "Translate the following sentence from Chinese to English:\n"
    days = [f"{asked}{chr(0x4E00 + 50 * n)}{chr(0x4E10 + 50 * n)}" for n in range(30)]
    prompts = [Prompt(text, "train" if n else "test", str(n)) for n, text in enumerate(days)]
    assert similarity(days[0], days[1]) > 0.7
    assert overlaps(prompts, [])["test"].near == 0
    again = [*prompts, Prompt(days[0] + "。", "train", "again")]
    (example,) = overlaps(again, [])["test"].examples
    assert example["other"]["id"] == "again"


def test_a_shared_system_prompt_makes_no_duplicates():
    system = {"role": "system", "content": "You are a careful assistant. " * 9}
    assert prompt_text([system, {"role": "user", "content": "Hi"}]) == "Hi"
    parts = [{"type": "text", "text": "Hi"}, {"type": "image", "url": "x"}]
    assert prompt_text([{"role": "user", "content": parts}]) == "Hi"


def test_evaluation_sets_are_read_whatever_their_answers(write_rows):
    rows = [
        {"prompt": "one", "chosen": "a", "rejected": "b"},
        {"prompt": "one", "chosen": "c", "rejected": "d"},
        {"id": 7, "prompt": "two", "option_1": "a", "option_2": "b"},
        {"chosen": "a"},
    ]
    prompts, report = read_prompts(write_rows(rows, "suite.jsonl"))
    assert [(prompt.text, prompt.id) for prompt in prompts] == [("one", "row-1"), ("two", "7")]
    assert (report.read, report.kept, report.bad.total()) == (4, 3, 1)
    with pytest.raises(UserError, match=r"^task\.against=nowhere\.jsonl: there is no such file"):
        read_prompts("nowhere.jsonl")
    with pytest.raises(UserError, match="no prompt can be read from it"):
        read_prompts(write_rows([{"a": 1}], "other.jsonl"))


# ------------------------------------------------------------------- agreement
VOTES = [(3, 0, 0), (0, 3, 0), (2, 1, 0), (1, 1, 1)]


def test_fleiss_kappa_by_hand():
    # Agreeing pairs of people: 1, 1, 1/3 and 0, so 7/12; by chance (6^2 + 5^2 + 1^2) / 12^2.
    found = agreement([*VOTES, (1, 1, 0), (1, 0, 0)], ["a", "a", "b", "b", "c", "c"])
    assert found.kappa == pytest.approx(11 / 41, abs=1e-4)
    assert (found.judgements, found.raters, found.unanimous, found.others) == (4, 3, 0.5, 1)
    assert found.low < found.kappa < found.high


def test_agreement_that_cannot_be_told():
    assert agreement([(1, 0, 0), (0, 1, 0)], ["a", "b"]) is None, "one person each"
    assert agreement([(0.5, 0.5, 0), (1.5, 1.5, 0)], ["a", "b"]) is None, "shares"
    assert agreement([(3, 0, 0), (3, 0, 0)], ["a", "b"]) is None, "one label"
    assert agreement([], []) is None
    alone = agreement(VOTES, ["a"] * 4)
    assert (alone.low, alone.high) == (None, None), "one prompt has no interval"


# --------------------------------------------------------------------- numbers
def test_the_longer_wins_with_its_interval():
    rows = [
        toy("1", tokens=(5, 4)),
        toy("2", tokens=(4, 5), prompt="q"),
        toy("3", tokens=(4, 4), prompt="q"),
        toy("4", tokens=(9, 4), pairs=((0, 1, 0),)),  # a tie is no pair
        toy("5", tokens=(9, 4), prompt="r"),
    ]
    found = length_and_labels.length_bias(rows)
    assert (found["pairs"], found["longer_wins"]) == (4, (1 + 0 + 0.5 + 1) / 4)
    assert 0.25 <= found["longer_wins_low"] < found["longer_wins_high"] == 1
    assert "spearman" not in found
    assert sum(found["gaps"]["counts"]) == 4


def test_ratings_follow_length():
    rows = [
        toy(str(n), ("a",), (), prompt=str(n), tokens=(n,), ratings=(float(n),)) for n in (1, 2, 3)
    ]
    found = length_and_labels.length_bias(rows)
    assert (found["pairs"], found["rated"], found["spearman"]) == (0, 3, pytest.approx(1))
    assert length_and_labels.ratings(rows)["values"] == {"1": 1, "2": 1, "3": 1}
    assert length_and_labels.ratings([toy("1")]) is None


def test_position_is_only_told_where_rows_have_one():
    assert length_and_labels.position([toy("1"), toy("2")]) is None, (
        "the better one is written first"
    )
    rows = [toy("1"), toy("2", pairs=((1, 0, 1),), prompt="q"), toy("3", pairs=((0, 1, 0),))]
    assert length_and_labels.position(rows)["first_wins"] == 0.5


def test_lengths_and_what_responses_share():
    found = length_and_labels.lengths(
        [toy("1", tokens=(10, 12), size=15), toy("2", tokens=(3, 5), size=5)]
    )
    assert found["shared_prefix"] == 1 - 20 / 30
    assert (found["quantiles"]["0"], found["quantiles"]["50"]) == (3, 7.5)
    assert found["histogram"]["edges"] == list(range(3, 14))
    assert found["histogram"]["counts"] == [1, 0, 1, 0, 0, 0, 0, 1, 0, 1]


def test_what_is_said_of_a_row():
    row = toy("1", ratings=(4.0, math.nan), pairs=((0, 1, 1), (1, 0, 0)))
    assert list(example_texts(row)) == [
        "response 1 is rated 4",
        "response 1 is better than response 2",
        "responses 2 and 1 tie",
    ]
    assert [shared_length(t) for t in (["abc", "abd"], ["ab", "abc"], ["abc"])] == [2, 2, 3]


# -------------------------------------------------------------------- warnings
FINE = {
    "odd_labels": [],
    "rows": {"lost": 0.01, "reasons": {}},
    "duplicates": {"rows": 1, "share": 0.01},
    "contradictions": {"pairs": 1, "judged": 100, "share": 0.01},
    "length_bias": {"pairs": 9, "longer_wins": 0.65},
    "ratings": {"values": {"0": 1, "1": 10}},
    "languages": {"en": 10, "zh": 1},
    "agreement": {"kappa": 0.21},
    "near_duplicates": {"test": {"prompts": 9, "near": 0}},
}


@pytest.mark.parametrize(
    ("worse", "sentence"),
    [
        ({}, None),
        ({"rows": {"lost": 0.02, "reasons": {"chosen is empty": 3}}}, "2.0% of the rows are left "),
        ({"duplicates": {"rows": 2, "share": 0.02}}, "2 rows (2.0%) repeat an earlier row."),
        (
            {"contradictions": {"pairs": 2, "judged": 100, "share": 0.02}},
            "2 of 100 labelled pairs (2.0%) have contradictory labels",
        ),
        ({"length_bias": {"longer_wins": 0.66}}, "Length alone explains 66.0% of the pairs (the l"),
        ({"length_bias": {"longer_wins": 0.34}}, "Length alone explains 66.0% of the pairs (the s"),
        ({"odd_labels": ["3 margins are negative"]}, "3 margins are negative."),
        ({"ratings": {"values": {"0": 1, "1": 11}}}, "The rating 1 comes 11 times as often as 0 ("),
        ({"languages": {"en": 22, "zh": 2}}, "The language en comes 11 times as often as zh"),
        ({"agreement": {"kappa": 0.2}}, "The people who judged hardly agree (Fleiss' kappa 0.20)"),
        (
            {"near_duplicates": {"test": {"prompts": 9, "near": 2}}},
            "2 of 9 prompts of test have a near-duplicate among the training prompts",
        ),
    ],
    ids=lambda value: next(iter(value), "fine") if isinstance(value, dict) else "",
)
def test_what_is_warned_of(worse, sentence):
    found = list(warnings(FINE | worse))
    assert [line[: len(sentence or "")] for line in found] == ([sentence] if sentence else [])


def test_lost_rows_and_rows_over_the_length():
    report = RowReport(read=10, kept=7, bad=Counter({"chosen is empty": 2}))
    report.drop("longer than 64 tokens", "all")
    report.drop("a train prompt that is also in test", "all")
    report.trim("oldest prompt turns, to fit 64 tokens", "all")
    found = read_data(report, 6, 64)
    assert (found["lost"], found["over"]) == (4 / 10, 2 / 10)
    assert next(iter(found["reasons"].items())) == ("chosen is empty", 2)


# ------------------------------------------------------------ the command line
def page_and_facts(run):
    """What a run has written."""
    return (run / "inspect.html").read_text(), json.loads((run / "inspect.json").read_text())


def pair(prompt, chosen, rejected, **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


@pytest.mark.slow
def test_inspect_on_the_command_line(rmexp, write_rows, monkeypatch):
    monkeypatch.setattr(Tiny, "load_model", None)  # it would be called in vain
    monkeypatch.setattr(rmexp, "reports", True)  # with its plots
    rows = [pair(f"{KITE} ({n})" * (n + 1), "a kite " * n, "no") for n in range(1, 9)]
    rows += [
        pair(BUS, "Take line 4.", "<b>Walk.</b>", split="train", subset="trips"),
        pair(BUS, "<b>Walk.</b>", "Take line 4.", split="train", subset="trips"),
        pair(BUS, "Take line 4.", "<b>Walk.</b>", split="train", subset="trips"),
        pair(BUS_AGAIN, "Take line 5.", "Walk.", split="test"),
        pair(RIVER, "长江", "黄河" * 999, split="train"),
        {"prompt": "nothing else"},
    ]
    data = write_rows(rows)
    suite = write_rows([pair(KITE + " (1)" + KITE + " (1)", "a", "b")], "suite.jsonl")
    done = rmexp(
        "task=inspect", "model=tiny", "data=jsonl", f"data.path={data}", f"task.against=[{suite}]"
    )
    (run,) = rmexp.runs()
    page, facts = page_and_facts(run)
    assert facts["rows"]["bad"].popitem()[1] == 1, "a bad row is shown, and stops nothing"
    (place,) = facts["rows"]["places"].values()
    assert place.startswith(f"{data}:14: ")
    assert facts["rows"]["over"] == 1 / 14
    assert facts["subsets"]["trips"] == {"train": 3}
    assert facts["duplicates"]["rows"] == 2
    assert facts["contradictions"]["pairs"] == 1
    assert facts["near_duplicates"]["test"]["near"] == 1
    assert facts["near_duplicates"][suite]["near"] == 1
    assert facts["length_bias"]["pairs"] == 12
    assert [example["subset"] for example in facts["examples"]] == ["all", "trips"]
    assert facts["agreement"] is None
    assert "<b>Walk" not in page
    assert "&lt;b&gt;Walk" in page
    assert page.count("<svg") == 2
    for sentence in facts["warnings"]:
        assert f"! {sentence}" in done.stdout
    assert "the longer wins" in done.stdout
    assert (
        f"  train: python -m rmexp data=jsonl data.path={data} data.on_bad_row=skip" in done.stdout
    )
    assert done.stdout.rstrip().splitlines()[-2].startswith("page    outputs/")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", '{"prompt": "Q", "response": "a"}', "have no label to train on"),
        (
            "a.jsonl",
            '{"question": "Q", "chosen": "a", "rejected": "b"}',
            "  train: python -m rmexp",
        ),
        (
            "a.jsonl",
            '{"prompt": "Q", "answer": "a", "score": 4}',
            "train: python -m rmexp data=jsonl",
        ),
        ("a.jsonl", "[1]", "! "),
        ("a.txt", "words", "! "),
        ("a.csv", "a,b\n1,2\n", "columns: a (text), b (text)"),
        ("a.parquet", "PAR1", "! "),
    ],
)
def test_the_first_look_answers_for_any_file(name, content, sentence, tmp_path):
    file = tmp_path / name
    file.write_text(content)
    source = build(compose_config(["data=jsonl", f"data.path={file}"]).data).source
    assert any(sentence in line for line in first_look(source, "jsonl"))


@pytest.mark.slow
def test_inspect_reads_ratings_and_mixtures(rmexp, write_rows):
    good = write_rows(
        [{"prompt": f"p{n}", "completion": "x" * (n + 1), "label": n % 3 > 0} for n in range(12)]
    )
    pairs = write_rows([pair(f"q{n}", f"yes {n}", "no") for n in range(12)], "pairs.jsonl")
    rmexp("task=inspect", "model=tiny", "data=kto", f"data.path={good}")
    rmexp(
        *("task=inspect", "model=tiny", "data=mix", "name=mixed"),
        *("+data@data.sources.a=kto", f"data.sources.a.path={good}"),
        *("+data@data.sources.b=jsonl", f"data.sources.b.path={pairs}"),
    )
    alone, mixed = (page_and_facts(run)[1] for run in rmexp.runs())
    assert alone["ratings"]["values"] == {"0": 4, "1": 8}
    assert alone["length_bias"]["rated"] == 12
    assert mixed["ratings"] == alone["ratings"]
    assert {name: sum(n.values()) for name, n in mixed["subsets"].items()} == {"a": 12, "b": 12}
    assert mixed["length_bias"]["pairs"] == 12


@pytest.mark.slow
@needs(UKP)
def test_inspect_arguments_with_five_votes(rmexp):
    rmexp("task=inspect", "model=tiny", "data=ukp_votes", f"data.path={UKP}", "data.limit=2000")
    facts = page_and_facts(rmexp.runs()[0])[1]
    assert facts["agreement"]["raters"] == 5
    assert 0.1 < facts["agreement"]["low"] < facts["agreement"]["high"] < 0.5
    assert facts["length_bias"]["longer_wins"] > 0.65
    assert any(line.startswith("Length alone explains") for line in facts["warnings"])
    assert facts["languages"] == {"en": facts["rows"]["kept"]}
