"""Every option of conf/data on a row of exactly the schema that its publisher has."""

from functools import cache

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from rmexp.comparison import LABEL_KINDS, Comparison, PreferenceLabel
from rmexp.config.compose import compose_config
from rmexp.config.schema import register
from rmexp.data.formats.auto import Auto
from rmexp.data.options import row_format
from rmexp.data.sources import BadRow, LeftOut
from tests.conftest import ROOT

register()
OPTIONS = sorted(
    file.stem
    for file in ROOT.glob("conf/data/*.yaml")
    if "format" in OmegaConf.load(file)  # others are recognised by their columns
)


@cache
def settings(option, *overrides):
    """What is composed for a data option."""
    return compose_config([f"data={option}", "data.path=x", *overrides]).data


@cache
def named(option, *overrides):
    """The format of a data option with its columns, as `ComparisonData` builds it."""
    data = settings(option, *overrides)
    parse = (
        data.format if isinstance(data.format, str) else instantiate(data.format, _convert_="all")
    )
    return row_format(parse, dict(data.get("fields") or {}), ignore_images=False)


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


ASKED = (user("Q"),)


def compared(*texts, prompt=ASKED, judged=(), **more):
    """A comparison of answers to Q."""
    answers = tuple((answer(text),) for text in texts)
    return Comparison(
        id=more.pop("id", ""), prompt=prompt, responses=answers, judgements=judged, **more
    )


A_WINS = PreferenceLabel(0, 1)
LONG = "Q<n><extra_id_1>Assistant<n>What?<n><extra_id_1>User<n>Again: Q".replace("<n>", "\n")
TALK = (user("Q"), answer("What?"), user("Again: Q"))
HELPSTEER3 = {
    "domain": "general",
    "language": "english",
    "context": [user("Q")],
    "response1": "a",
    "response2": "b",
    "overall_preference": -2,
    "individual_preference": [
        {"score": -3, "reasoning": "r", "feedback1": "f", "feedback2": "f"},
        {"score": -2, "reasoning": "r", "feedback1": "f", "feedback2": "f"},
        {"score": 0, "reasoning": "r", "feedback1": "f", "feedback2": "f"},
    ],
}
HELPSTEER2 = {
    "split": "val",
    "prompt": LONG,
    "response_1": "a",
    "response_2": "b",
    "preference_strength": 0,
    "preference_statement": "s",
    "preference_elaboration": "e",
    "three_most_similar_preferences": [
        {"statement": "s", "elaboration": "e", "strength": -1},
        {"statement": "s", "elaboration": "e", "strength": 0},
        {"statement": "s", "elaboration": "e", "strength": 1},
    ],
    "all_preferences_unprocessed": [],
}
SHP = {
    "post_id": "qt3nxl",
    "domain": "askculinary_train",
    "upvote_ratio": 0.98,
    "history": "Q",
    "c_root_id_A": "hkh25sc",
    "c_root_id_B": "hkh25lp",
    "created_at_utc_A": 1636822112,
    "created_at_utc_B": 1636822110,
    "score_A": 340,
    "score_B": 166,
    "human_ref_A": "a",
    "human_ref_B": "b",
    "labels": 1,
    "seconds_difference": 2.0,
    "score_ratio": 2.0481927711,
}
PKU = {
    "prompt": "Q",
    "response_0": "a",
    "response_1": "b",
    "prompt_source": "Alpaca3-8B",
    "is_response_0_safe": True,
    "is_response_1_safe": True,
    "better_response_id": 1,
    "safer_response_id": 0,
}
ARENA = {
    "question_id": "58210e39",
    "model_a": "chatglm-6b",
    "model_b": "koala-13b",
    "winner": "tie (bothbad)",
    "judge": "arena_user_973",
    "conversation_a": [user("Q"), answer("a"), user("R"), answer("aa")],
    "conversation_b": [user("Q"), answer("b"), user("R"), answer("bb")],
    "turn": 2,
    "anony": True,
    "language": "English",
    "tstamp": 1682351591.1322,
    "openai_moderation": "{}",
    "toxic_chat_tag": "{}",
}


def rated_by(*ratings):
    names = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    return {n: {"Rating": r, "Rationale": "r"} for n, r in zip(names, ratings, strict=True)}


def completion(text, *ratings):
    return {
        "model": "m",
        "principle": "honesty",
        "custom_system_prompt": "s",
        "response": text,
        "annotations": rated_by(*ratings),
        "critique": "c",
        "fine-grained_score": 4.0,
        "overall_score": 7.0,
    }


ULTRAFEEDBACK = {
    "source": "evol_instruct",
    "instruction": "Q",
    "models": ["m"] * 4,
    "completions": [
        completion("a", "5", "4", "3", "4"),
        completion("b", "1", "N/A", "N/A", "2"),
        completion("c", "N/A", "N/A", "N/A", "N/A"),
    ],
    "correct_answers": ["None"],
    "incorrect_answers": ["None"],
}
CASES = {
    "hh_rlhf": (
        {"chosen": "\n\nHuman: Q\n\nAssistant: a", "rejected": "\n\nHuman: Q\n\nAssistant: b"},
        compared("a", "b", judged=(A_WINS,)),
    ),
    "ultrafeedback_binarized": (
        {
            "prompt": "Q",
            "prompt_id": "f0e37e9f",
            "chosen": [user("Q"), answer("a")],
            "rejected": [user("Q"), answer("b")],
            "messages": [user("Q"), answer("a")],
            "score_chosen": 8.5,
            "score_rejected": 7.0,
        },
        compared("a", "b", id="f0e37e9f", judged=(A_WINS,), ratings=(8.5, 7.0)),
    ),
    "ultrafeedback": (
        ULTRAFEEDBACK,
        compared(
            "a",
            "b",
            "c",
            subset="evol_instruct",
            ratings=(4.0, 1.5, None),
            attributes={
                "instruction_following": (5.0, 1.0, None),
                "honesty": (4.0, None, None),
                "truthfulness": (3.0, None, None),
                "helpfulness": (4.0, 2.0, None),
            },
        ),
    ),
    "helpsteer2": (
        {
            "prompt": LONG,
            "response": "a",
            "helpfulness": 3,
            "correctness": 4,
            "coherence": 4,
            "complexity": 2,
            "verbosity": 1,
        },
        compared(
            "a",
            prompt=TALK,
            ratings=(pytest.approx(6.31),),
            attributes={
                "helpfulness": (3.0,),
                "correctness": (4.0,),
                "coherence": (4.0,),
                "complexity": (2.0,),
                "verbosity": (1.0,),
            },
        ),
    ),
    "helpsteer2_preference": (
        HELPSTEER2,
        compared("a", "b", prompt=TALK, split="val", judged=(PreferenceLabel(0, 1, 0, 0, 1, 0.0),)),
    ),
    "helpsteer3": (
        HELPSTEER3,
        compared(
            "a",
            "b",
            subset="general",
            language="english",
            judged=(PreferenceLabel(0, 1, margin=2.0),),
        ),
    ),
    "helpsteer3 data.fields.strengths=individual_preference": (
        HELPSTEER3,
        compared(
            "a",
            "b",
            subset="general",
            language="english",
            judged=(PreferenceLabel(0, 1, 2, 0, 1, margin=2.0),),
        ),
    ),
    "helpsteer2_preference data.fields.strengths=three_most_similar_preferences": (
        HELPSTEER2,
        compared("a", "b", prompt=TALK, split="val", judged=(PreferenceLabel(0, 1, 1, 1, 1, 0.0),)),
    ),
    "skywork": (
        {
            "chosen": [user("Q"), answer("a")],
            "rejected": [user("Q"), answer("b")],
            "source": "magpie_ultra",
        },
        compared("a", "b", subset="magpie_ultra", judged=(A_WINS,)),
    ),
    "nectar": (
        {
            "prompt": "\n\nHuman: Q\n\nAssistant: What?\n\nHuman: Again: Q\n\nAssistant: ",
            "answers": [
                {"answer": "a", "model": "gpt-4", "rank": 1.0},
                {"answer": "b", "model": "llama", "rank": 2.0},
                {"answer": "c", "model": "mistral", "rank": 2.0},
            ],
            "turns": 2,
            "num_responses": 3,
            "source": ["sharegpt"],
            "good_natured": True,
        },
        compared("a", "b", "c", prompt=TALK, ratings=(-1.0, -2.0, -2.0)),
    ),
    "shp": (
        SHP,
        compared("a", "b", subset="askculinary_train", judged=(PreferenceLabel(0, 1, 340, 166),)),
    ),
    "shp data.fields.votes_a=null": (
        SHP,
        compared("a", "b", subset="askculinary_train", judged=(A_WINS,)),
    ),
    "webgpt": (
        {
            "question": {"dataset": "eli5", "id": "x", "full_text": "Q"},
            "quotes_0": {"title": [], "extract": []},
            "answer_0": "a",
            "tokens_0": {"prefix": [1], "completion": [2]},
            "score_0": -0.5,
            "quotes_1": {"title": [], "extract": []},
            "answer_1": "b",
            "tokens_1": {"prefix": [1], "completion": [2]},
            "score_1": 0.5,
        },
        compared("a", "b", subset="eli5", judged=(PreferenceLabel(0, 1, 0, 1, 0, margin=0.5),)),
    ),
    "pku_saferlhf": (
        PKU,
        compared(
            "a",
            "b",
            subset="Alpaca3-8B",
            judged=(PreferenceLabel(0, 1, 0, 1),),
            attributes={"helpfulness": (0.0, 1.0), "safety": (1.0, 0.0)},
        ),
    ),
    "pku_saferlhf data.fields.votes=safer_response_id": (
        PKU,
        compared(
            "a",
            "b",
            subset="Alpaca3-8B",
            judged=(A_WINS,),
            attributes={"helpfulness": (0.0, 1.0), "safety": (1.0, 0.0)},
        ),
    ),
    "chatbot_arena": (
        ARENA,
        Comparison(
            id="58210e39",
            prompt=(user("Q"),),
            responses=(
                (answer("a"), user("R"), answer("aa")),
                (answer("b"), user("R"), answer("bb")),
            ),
            judgements=(PreferenceLabel(0, 1, 0, 0, 1),),
            language="English",
        ),
    ),
    "kto": (
        {"prompt": "Q", "completion": "a", "label": False},
        compared("a", ratings=(0.0,)),
    ),
    "llamafactory_kto": (
        {"messages": [user("Q"), answer("a")], "label": True},
        compared("a", ratings=(1.0,)),
    ),
    "ms_swift": (
        {"messages": [*TALK, answer("a")], "rejected_response": "b", "margin": 2},
        compared("a", "b", prompt=TALK, judged=(PreferenceLabel(0, 1, margin=2.0),)),
    ),
    "stepwise": (
        {"prompt": "Q", "completions": ["a", "b", "c"], "labels": [True, False, None]},
        compared("a", "a\nb", "a\nb\nc", ratings=(1.0, 0.0, None), unfinished=True),
    ),
    "ukp_votes": (
        {"prompt": [user("Q")], "arg1": "a", "arg2": "b", "votes": {"a1": 1, "a2": 3, "equal": 1}},
        compared("a", "b", judged=(PreferenceLabel(0, 1, 1, 3, 1),)),
    ),
    "ukp": (
        {"prompt": [user("Q")], "chosen": "a", "rejected": "b", "strict": True},
        compared("a", "b", judged=(A_WINS,)),
    ),
    "ukp_ranked": (
        {"prompt": [user("Q")], "response": "a", "pagerank": 0.25},
        compared("a", ratings=(-0.25,)),
    ),
    "wmt_mqm": (
        {"lang": "zhen", "prompt": [user("Q")], "responses": ["a", "b"], "mqm_penalty": [5.1, 0]},
        compared("a", "b", subset="zhen", language="zhen", ratings=(-5.1, 0.0)),
    ),
    "gsm8k_solutions": (
        {"prompt": [user("Q")], "responses": ["a", "b"], "correct": [False, True]},
        compared("a", "b", ratings=(0.0, 1.0)),
    ),
    "finegrained_rlhf": (
        {"prompt": [user("Q")], "responses": ["a", "b", "c"], "preference": [1, 0, 2]},
        compared(
            "a", "b", "c", judged=(A_WINS, PreferenceLabel(0, 2, 0, 0, 1), PreferenceLabel(2, 1))
        ),
    ),
    "prometheus": (
        {"prompt": [user("Q")], "response": "a", "rubric": "R", "score": 2.5},
        compared("a", ratings=(2.5,)),
    ),
    "prometheus data.fields.system_prompt=rubric": (
        {"prompt": [user("Q")], "response": "a", "rubric": "R", "score": 2.5},
        compared("a", prompt=({"role": "system", "content": "R"}, user("Q")), ratings=(2.5,)),
    ),
    "pandalm": (
        {"prompt": [user("Q")], "response1": "a", "response2": "b", "annotators": [2, 0, 2]},
        compared("a", "b", judged=(PreferenceLabel(0, 1, 0, 2, 1),)),
    ),
    "halluqa": (
        {"prompt": [user("Q")], "correct": ["a"], "incorrect": ["b", "c"]},
        compared("a", "b", "c", ratings=(1.0, 0.0, 0.0)),
    ),
}
PAIR = {"prompt": [user("Q")], "chosen": "a", "rejected": "b"}
CASES |= {
    name: (PAIR, compared("a", "b", judged=(A_WINS,)))
    for name in ("pandalm_pairs", "hhh", "uhgeval", "llamafactory_dpo", "jsonl")
}


@pytest.mark.parametrize("case", CASES)
def test_a_published_row_becomes_this_comparison(case):
    row, expected = CASES[case]
    parse = named(*case.split())
    assert parse(row) == expected
    if parse.label_kinds is not None:
        assert said(expected) <= set(parse.label_kinds) <= set(LABEL_KINDS)


def said(comparison):
    """The kinds that a comparison gives."""
    judged = comparison.judgements
    votes = [(j.votes_i, j.votes_j, j.votes_tie) for j in judged]
    found = {
        "pairs": any(j.label for j in judged),
        "ties": any(j.label == 0 for j in judged),
        "votes": any(sum(v > 0 for v in counts) > 1 for counts in votes),
        "margins": any(j.margin is not None for j in judged),
        "ratings": comparison.ratings is not None,
        "lists": len({level for level in comparison.rank_levels() if level is not None}) > 1,
    }
    return {kind for kind, there in found.items() if there}


def test_every_option_has_a_row_here():
    elsewhere = {"oasst", "samples"}  # trees of dialogues; several rows a comparison
    assert set(OPTIONS) - {case.split()[0] for case in CASES} == elsewhere


TREE = {
    "message_tree_id": "t",
    "tree_state": "ready_for_export",
    "prompt": {
        "message_id": "t",
        "text": "Q",
        "role": "prompter",
        "lang": "es",
        "replies": [
            {
                "message_id": "a",
                "parent_id": "t",
                "text": "What?",
                "role": "assistant",
                "lang": "es",
                "rank": 1,
                "replies": [
                    {
                        "message_id": "u",
                        "text": "Again: Q",
                        "role": "prompter",
                        "lang": "es",
                        "replies": [
                            {"message_id": "d", "text": "d", "role": "assistant", "rank": 0},
                            {"message_id": "e", "text": "e", "role": "assistant", "rank": 1},
                            {"message_id": "f", "text": "f", "role": "assistant", "rank": None},
                        ],
                    }
                ],
            },
            {"message_id": "b", "text": "b", "role": "assistant", "rank": 0, "replies": []},
            {"message_id": "c", "text": "c", "role": "assistant", "rank": 2, "deleted": True},
        ],
    },
}


def test_a_tree_gives_a_comparison_for_every_prompt_with_ranked_answers():
    assert named("oasst")(TREE) == [
        compared("What?", "b", id="t", language="es", ratings=(-1.0, 0.0)),
        compared("d", "e", id="u", language="es", prompt=TALK, ratings=(0.0, -1.0)),
    ]
    with pytest.raises(LeftOut, match="no prompt of the tree has two ranked answers"):
        named("oasst")({"prompt": {"text": "Q", "role": "prompter", "replies": []}})


@pytest.mark.parametrize(
    ("option", "change", "reason"),
    [
        ("shp", {"score_A": -1}, "votes are (-1.0, 166.0, 0.0): they should be 0 or more"),
        ("shp", {"human_ref_B": "a"}, "human_ref_A and human_ref_B are the same"),
        ("shp", {"history": " "}, "history is empty"),
        (
            "pku_saferlhf",
            {"better_response_id": 2},
            "better_response_id has the label '2' (known: 0, 1)",
        ),
        ("chatbot_arena", {"winner": "c"}, "winner has the label 'c' (known: model_a, model_b, t"),
        ("chatbot_arena", {"conversation_b": [user("R"), answer("b")]}, "there is no prompt"),
        ("chatbot_arena", {"conversation_b": [user("Q"), answer("")]}, "conversation_b is empty"),
        ("chatbot_arena", {"conversation_b": [user("Q")]}, "conversation_b is empty"),
        (
            "helpsteer3",
            {"overall_preference": "much"},
            "overall_preference is not a number ('much')",
        ),
        ("ultrafeedback", {"completions": []}, "completions must be a list of objects"),
        (
            "ultrafeedback",
            {"completions": [completion("", "1", "1", "1", "1")]},
            "completions[0].response is empty",
        ),
        (
            "ultrafeedback",
            {"completions": [completion("a", "1", "good", "1", "1")]},
            "completions[0].annotations.honesty.Rating is not a number ('good')",
        ),
        ("helpsteer2", {"verbosity": None}, "field 'verbosity' is missing, which the rating is"),
        ("nectar", {"prompt": "Q"}, "prompt is no dialogue of Human: and Assistant: turns"),
        ("nectar", {"answers": [{"answer": "a"}]}, "answers[0].rank is not a number (None)"),
        ("stepwise", {"labels": [True]}, "3 completions but 1 labels"),
        ("stepwise", {"completions": ["a", " ", "c"]}, "completions[1] is empty"),
        ("finegrained_rlhf", {"preference": [1]}, "3 responses make 3 pairs, but preference has 1"),
        ("finegrained_rlhf", {"preference": [1, 0, 3]}, "preference has the entry 3"),
        ("halluqa", {"incorrect": []}, "incorrect must be a list of answers"),
        ("ms_swift", {"rejected_response": " "}, "rejected_response must be text, or rejected_me"),
        ("ms_swift", {"rejected_response": "a"}, "messages and rejected_response are the same"),
        ("ukp_votes", {"votes": {"a1": 0, "a2": 0, "equal": 0}}, "votes are (0.0, 0.0, 0.0)"),
        ("ukp_votes", {"votes": {"a3": 1}}, "votes has the label 'a3'"),
    ],
)
def test_bad_rows_name_the_field(option, change, reason):
    with pytest.raises(BadRow) as caught:
        named(option)(CASES[option][0] | change)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("option", "column", "value"),
    [
        ("helpsteer3", "overall_preference", None),
        ("helpsteer3", "overall_preference", "N/A"),
        ("pku_saferlhf", "better_response_id", None),
        ("chatbot_arena", "winner", ""),
        ("finegrained_rlhf", "preference", None),
    ],
)
def test_rows_that_nobody_judged_are_left_out(option, column, value):
    with pytest.raises(LeftOut, match=f"{column} is empty"):
        named(option)(CASES[option][0] | {column: value})


def test_rows_that_are_not_wanted_are_left_out_with_the_cause():
    with pytest.raises(LeftOut, match="strict is not True"):
        named("ukp")(CASES["ukp"][0] | {"strict": False})


@pytest.mark.parametrize("case", ["ms_swift", "stepwise", "kto", "llamafactory_kto"])
def test_unmistakable_rows_need_no_option(case):
    row, expected = CASES[case]
    assert Auto()(row) == expected


CALL = {"name": "weather", "arguments": {"city": "北京"}}
CALLED = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": CALL}],
}


def test_the_tool_roles_of_ms_swift_become_what_templates_read():
    start = [user("Q"), {"role": "tool_call", "content": '{"name": "weather", "arguments": '}]
    start[1]["content"] += '{"city": "北京"}}'
    row = {
        "tools": '[{"type": "function", "function": {"name": "weather"}}]',
        "messages": [*start, {"role": "tool_response", "content": "sun"}, answer("a")],
        "rejected_messages": [user("Q"), answer("b")],
    }
    comparison = named("ms_swift")(row)
    assert comparison.prompt == (user("Q"),)
    assert comparison.responses == (
        (CALLED, {"role": "tool", "content": "sun"}, answer("a")),
        (answer("b"),),
    )
    assert comparison.tools == ({"type": "function", "function": {"name": "weather"}},)
    with pytest.raises(BadRow, match="messages has a tool_call that is not JSON"):
        named("ms_swift")(row | {"messages": [user("Q"), {"role": "tool_call", "content": "{"}]})
