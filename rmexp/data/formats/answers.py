"""The prompt of a row and its answers, in every form that public data sets have."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from rmexp.data.formats.dialogues import (
    human_dialogue,
    is_human_dialogue,
    marked_dialogue,
    shared_dialogue,
    with_system,
)
from rmexp.data.formats.fields import (
    column_of,
    decoded,
    field,
    is_missing,
    is_plain,
    list_field,
    unique_texts,
)
from rmexp.data.formats.messages import (
    Messages,
    chat_messages,
    from_text,
    is_message,
    prompt_messages,
    response_messages,
)
from rmexp.data.sources import BadRow
from rmexp.data.text_style import spoken

Sides = list[tuple[Messages, ...]]
SYSTEM = ("system", "developer")


def prompt_and_answers(
    row: Mapping[str, Any], *names: str, turn_mark: str | None = None, plural: bool = False
) -> tuple[Messages, Sides]:
    """The prompt of a row, after its system prompt, and the answers of each field.

    A field holds an answer or a list of answers. An answer is a text, a message, the messages after
    the prompt, or a whole dialogue, whose beginning that all share is then the prompt. Where the
    prompt is a list of texts, prompts and answers are the turns of dialogues.

    Args:
        names: fields of answers; those of the first field must differ from those of the second.
        turn_mark: opens the turns inside a prompt that is one text (see `marked_dialogue`).
        plural: each field holds a list of answers.
    """
    given = [field(row, name) for name in names]
    labels = [column_of(row, name) for name in names]
    asked = row.get("prompt")
    if not plural and all(type(one) is str and is_plain(one) for one in (asked, *given)):
        texts = _plain_texts(row, given, labels, turn_mark)
        if texts is not None:
            return texts
    turns: Any = None if plural else decoded(asked)
    sides: Sides
    if _is_texts(turns) and all(_is_texts(decoded(one)) for one in given):
        talks = [
            _of_turns(turns, decoded(one), name) for one, name in zip(given, labels, strict=True)
        ]
        prompt, answers = shared_dialogue(talks, labels)
        sides = [(answer,) for answer in answers]
    else:
        listed = [
            list_field(row, name, "answers") if plural else one
            for name, one in zip(names, given, strict=True)
        ]
        several = [_several(one, label, plural) for one, label in zip(listed, labels, strict=True)]
        flat = [pair for side in several for pair in side]
        prompt, answers = _prompt_and_flat(row, flat, turn_mark)
        left = iter(answers)
        sides = [tuple(next(left) for _ in side) for side in several]
    if len(sides) == 2:
        for one, other in product(*sides):
            unique_texts(one, other, " and ".join(labels))
    return with_system(prompt, row), sides


def _plain_texts(
    row: Mapping[str, Any], given: Sequence[str], labels: Sequence[str], turn_mark: str | None
) -> tuple[Messages, Sides] | None:
    """The short way for plain texts, which most rows are; None: there is more to the prompt."""
    asked = row["prompt"]
    if (turn_mark and turn_mark in asked) or row.get("input") or row.get("history"):
        return None
    if len(given) == 2 and given[0][0] == given[1][0]:
        unique_texts(given[0], given[1], " and ".join(labels))
    prompt = prompt_messages(asked, column_of(row, "prompt"))
    sides: Sides = [
        (response_messages(one, name),) for one, name in zip(given, labels, strict=True)
    ]
    return with_system(prompt, row), sides


def _prompt_and_flat(
    row: Mapping[str, Any], given: Sequence[tuple[str, Any]], turn_mark: str | None
) -> tuple[Messages, tuple[Messages, ...]]:
    labels = [name for name, _ in given]
    answers = from_text(*(answer for _, answer in given))
    asked = _asked(row, turn_mark)
    if all(map(is_human_dialogue, answers)):
        talks = [human_dialogue(text, name) for text, name in zip(answers, labels, strict=True)]
        for talk, name in zip(talks, labels, strict=True):
            if talk[-1]["role"] != "assistant":
                raise BadRow(f"roles out of order: {name} ends with the human")
            if talk[:-1] != talks[0][:-1]:
                raise BadRow("the two dialogues differ before their last answer")
        prompt = prompt_messages(talks[0][:-1])
        _check_agrees(asked, prompt, row)
        return prompt, tuple(
            response_messages(talk[-1]["content"], name)
            for talk, name in zip(talks, labels, strict=True)
        )
    whole = [_is_whole(answer, name) for answer, name in zip(answers, labels, strict=True)]
    if all(whole):
        prompt, rests = shared_dialogue(answers, labels)
        return _check_agrees(asked, prompt, row), rests
    if any(whole):
        raise BadRow(
            f"{labels[whole.index(True)]} is a whole dialogue, and "
            f"{labels[whole.index(False)]} an answer alone"
        )
    responses = tuple(
        response_messages(answer, name) for name, answer in zip(labels, answers, strict=True)
    )
    if asked is None:
        raise BadRow(
            "there is no prompt: field 'prompt' is missing; name its column as "
            "data.fields.prompt=COLUMN"
        )
    return prompt_messages(asked, column_of(row, "prompt")), responses


def _asked(row: Mapping[str, Any], turn_mark: str | None) -> Any:
    """What the prompt field has, with the `input` and `history` of alpaca rows; None: nothing."""
    value = row.get("prompt")
    if is_missing(value):
        return None
    (value,) = from_text(value)
    if _is_texts(value) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        return value
    if turn_mark and turn_mark in value:
        return marked_dialogue(value, turn_mark)
    if is_human_dialogue(value) and value.rstrip().endswith("Assistant:"):
        return human_dialogue(value, column_of(row, "prompt"))[:-1]
    more = row.get("input")
    if isinstance(more, str) and more.strip():
        value = f"{value}\n{more}" if value.strip() else more
    history = decoded(row.get("history"))
    if isinstance(history, list) and history:
        before = _turns_before(history, column_of(row, "history"))
        return [*before, {"role": "user", "content": value}]
    return value


def _turns_before(history: Sequence[Any], name: str) -> list[dict[str, str]]:
    """Earlier turns, as a list of (question, answer)."""
    talk = []
    for pair in history:
        if not _is_texts(pair) or len(pair) != 2:
            raise BadRow(f"{name} must be a list of pairs: a question and its answer")
        talk += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return talk


def _several(value: Any, name: str, plural: bool) -> list[tuple[str, Any]]:
    """The answers of a field, each with its name for messages."""
    if not plural and (not isinstance(value, list) or any(map(is_message, value))):
        return [(name, value)]
    if not value:
        raise BadRow(f"{name} is empty")
    return [(f"{name}[{k}]", one) for k, one in enumerate(value)]


def _is_whole(answer: Any, name: str) -> bool:
    """Whether an answer is a dialogue with its prompt."""
    talk = chat_messages(answer, name)
    first = talk[0] if isinstance(talk, list) and talk else None
    return isinstance(first, Mapping) and first.get("role") in ("system", "developer", "user")


def _is_texts(value: Any) -> bool:
    texts = isinstance(value, list) and bool(value)
    return texts and all(one is None or isinstance(one, str) for one in value)


def _of_turns(prompts: Sequence[Any], answers: Sequence[Any], name: str) -> list[dict[str, str]]:
    if len(answers) != len(prompts):
        raise BadRow(f"{name} has {len(answers)} turns, and the prompt {len(prompts)}")
    talk = []
    for asked, answer in zip(prompts, answers, strict=True):
        for role, text in (("user", asked), ("assistant", answer)):
            if text is None or not text.strip():
                raise BadRow(f"{name} has an empty turn of the {role}")
            talk.append({"role": role, "content": text})
    return talk


def _check_agrees(asked: Any, prompt: Messages, row: Mapping[str, Any]) -> Messages:
    """The prompt of whole dialogues, with the system message that only the prompt field has.

    The prompt field may differ by blanks, or be the last user turn alone.
    """
    if asked is None:
        return prompt
    name = column_of(row, "prompt")
    plain = [asked] if isinstance(asked, str) else chat_messages(asked, name)
    if isinstance(asked, str):
        said = [_plain(asked)]
    elif isinstance(plain, list) and all(isinstance(one, Mapping) for one in plain):
        said = [_plain(spoken([one])) for one in plain if one.get("role") not in SYSTEM]
    else:
        said = []
    talk = [_plain(spoken([one])) for one in prompt if one["role"] not in SYSTEM]
    agrees = (talk[-len(said) :], talk[:1]) if said else ()
    if said not in agrees and said[: len(talk)] != talk:
        raise BadRow(
            f"{name} is not what the dialogues begin with: data.fields.prompt=null reads the "
            "dialogues alone"
        )
    own = prompt_messages(asked, name)[:1] if _opens_with_system(plain) else ()
    return prompt if not own or prompt[0]["role"] in SYSTEM else (*own, *prompt)


def _opens_with_system(messages: Sequence[Any]) -> bool:
    return isinstance(messages[0], Mapping) and messages[0].get("role") in SYSTEM


def _plain(text: str) -> str:
    return " ".join(text.split())
