"""Chat templates: installed into a tokenizer, audited, fingerprinted.

All settings become part of the Jinja source, so that an exported tokenizer has the template of the
training. Special tokens come only from the template, which prevents a double BOS.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rmexp.comparison import Message
from rmexp.core.errors import UserError, note_fallback
from rmexp.templates.jinja_prelude import BAKED, bake
from rmexp.templates.limits import MAX_SOURCE, limited_memory
from rmexp.templates.rendering import render, tokenize
from rmexp.templates.template_file import default_template, read_template

PROBES: tuple[tuple[Message, ...], ...] = (
    ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there."}),
    (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?\n"},
        {"role": "assistant", "content": " 2"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ),
    (
        {"role": "user", "content": "你好，世界"},
        {"role": "assistant", "content": "你好！ naïve ☕"},
    ),
)
"""Dialogues whose token ids are hashed in a template's fingerprint."""

SPECIAL_TAG = re.compile(r"<[|｜][^|｜<>\s]+[|｜]>")
"""Matches texts that are meant as special tokens: <|im_end|>."""

TAG = re.compile(SPECIAL_TAG.pattern + r"|</?\w+>|\[/?[A-Z_]+\]")
"""Matches texts like special tokens: <|im_end|>, <end_of_turn>, </s>, [/INST]."""

PAD_NAMES = (
    "<|pad|>",
    "<pad>",
    "[PAD]",
    "<|finetune_right_pad_id|>",
    "<|padding|>",
    "<|endoftext|>",
)
"""Existing tokens for padding, in order of preference."""


@dataclass(frozen=True)
class Template:
    """A chat template and its settings.

    Args:
        source: a Jinja chat template; None takes the tokenizer's own.
        path: a file with a Jinja chat template, or the folder of a tokenizer, instead of `source`.
        system: a system prompt for dialogues without one.
        response_prefix: text before the content of the response.
        response_suffix: text after it.
        arguments: variables of the template, e.g. `enable_thinking: false`.
    """

    source: str | None
    path: str | None
    system: str | None
    response_prefix: str | None
    response_suffix: str | None
    arguments: Mapping[str, Any]

    def check(self) -> None:
        """Read the file.

        Raises:
            UserError: there is none, or no template in it.
        """
        if self.path is not None:
            read_template(self.path)

    def install(self, tokenizer: Any) -> str | None:
        """Set this template, a pad token that is not eos, and right padding on the tokenizer.

        Returns:
            A note if a pad token was chosen.

        Raises:
            UserError: there is no template, the file is missing, or it is not valid Jinja.
        """
        tokenizer.chat_template = self._bake(self._find(tokenizer), tokenizer)
        tokenizer.padding_side = "right"
        note = choose_pad_token(tokenizer)
        try:
            _check_renders(tokenizer)
        except UserError as error:
            where = f"template.path={self.path}: " if self.path is not None else ""
            raise UserError(f"{where}{error}") from error
        # A family's own template may write tags that its tokenizer splits, but not <|these|>.
        given = self.source is not None or self.path is not None
        _check_tags(tokenizer, TAG if given else SPECIAL_TAG)
        return note

    def _find(self, tokenizer: Any) -> str:
        if self.path is not None:
            return read_template(self.path)
        if self.source is not None:
            return self.source
        own = default_template(tokenizer.chat_template, "The tokenizer")
        if own is not None:
            return own
        raise UserError(
            "The tokenizer has no chat template of its own: choose template=chatml, template=plain "
            "or template=jinja template.path=FILE."
        )

    def _bake(self, source: str, tokenizer: Any) -> str:
        settings = (self.system, self.response_prefix, self.response_suffix)
        if source.startswith(BAKED) and not self.arguments and settings == (None, None, None):
            return source  # the template of an export has its settings
        bos = tokenizer.bos_token if adds_bos(tokenizer) else ""
        return bake(source, bos, self.arguments, *settings)


def choose_pad_token(tokenizer: Any) -> str | None:
    """Set a pad token that is not eos: Hugging Face pools the last token that is not pad.

    Resize a model whose embedding is smaller than the tokenizer afterwards.

    Returns:
        A note if the token was chosen or added, else None.
    """
    taken = {tokenizer.eos_token, tokenizer.bos_token, None}
    if tokenizer.pad_token not in taken:
        return None
    vocabulary = tokenizer.get_vocab()
    for name in (*PAD_NAMES, tokenizer.unk_token):
        if name in vocabulary and name not in taken:
            tokenizer.pad_token = name
            return f"pad token: {name!r} (an existing token, as pad must differ from eos)"
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    return "pad token: '<|pad|>' was added, as pad must differ from eos"


def template_fingerprint(tokenizer: Any) -> str:
    """A hash (16 hex digits) of the token ids of the probe dialogues."""
    seen: list[Any] = []
    for probe in PROBES:
        try:
            seen.append(tokenize(tokenizer, render(tokenizer, [probe]))[0])
        except UserError as error:  # a template may refuse a system message
            seen.append(str(error))
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Audit:
    """The template on one example: printed at the start and written to `environment.json`."""

    fingerprint: str
    bos_count: int
    eos_present: bool
    pooled_token: str
    pad_token: str
    example: str

    def lines(self) -> list[str]:
        """A summary for the terminal."""
        return [
            f"template {self.fingerprint}: BOS x{self.bos_count}, "
            f"EOS {'yes' if self.eos_present else 'NO'}, "
            f"pooled token {self.pooled_token!r}, pad {self.pad_token!r}",
            *("  | " + line for line in self.example.splitlines()),
        ]


def audit_template(tokenizer: Any, text: str, ids: Sequence[int]) -> Audit:
    """Audit one rendered response: its BOS, its EOS, and the token that is pooled."""
    return Audit(
        fingerprint=template_fingerprint(tokenizer),
        bos_count=leading_bos(tokenizer, ids),
        eos_present=tokenizer.eos_token_id in ids,
        pooled_token=tokenizer.convert_ids_to_tokens(ids[-1]) if ids else "",
        pad_token=tokenizer.pad_token,
        example=text,
    )


def leading_bos(tokenizer: Any, ids: Sequence[int]) -> int:
    """Number of BOS tokens at the start of a text; some templates begin every turn with one."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return 0
    return next((n for n, token in enumerate(ids) if token != bos), len(ids))


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer adds BOS to every text (as Llama's does)."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [
        tokenizer.bos_token_id
    ]


def _check_renders(tokenizer: Any) -> None:
    if len(tokenizer.chat_template) > MAX_SOURCE:
        raise UserError(f"The chat template has {len(tokenizer.chat_template)} characters.")
    with limited_memory():
        first, *others = render(tokenizer, [PROBES[0]] * 8)
    if any(other != first for other in others):
        note_fallback(
            "The template renders the same dialogue in several ways (at random?): rewards, cached "
            "tokens and the export depend on chance."
        )
    if PROBES[0][-1]["content"] not in first:
        raise UserError(
            "The chat template does not render the assistant's answer; "
            "nothing could be learnt from it."
        )


def _check_tags(tokenizer: Any, tag: re.Pattern[str]) -> None:
    """Note tags of the template that are not tokens: they are split into pieces."""
    found: set[str] = set()
    for probe in PROBES:
        with suppress(UserError):  # a template may refuse a system message
            found |= set(tag.findall(render(tokenizer, [probe])[0]))
    if unknown := sorted(one for one in found if one not in tokenizer.tokenize(one)):
        note_fallback(
            f"The template writes {', '.join(unknown)}: the tokenizer has no such tokens "
            "and splits them into pieces."
        )
