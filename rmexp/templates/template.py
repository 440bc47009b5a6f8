"""The template of a run: installed into the tokenizer, audited, fingerprinted.

A template is a Jinja chat template and nothing else: all its settings are baked into its source, so
what the exported tokenizer carries is exactly what was trained with. Special tokens come from the
template alone, so a double BOS cannot happen.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmexp.comparison import Message
from rmexp.core.errors import UserError, note_fallback
from rmexp.templates.jinja_prelude import BAKED, bake
from rmexp.templates.rendering import render, tokenize

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
"""Dialogues whose token ids make up a template's fingerprint."""


TAG = re.compile(r"<[|｜][^|｜<>\s]+[|｜]>|</?\w+>|\[/?[A-Z_]+\]")
"""What looks like a special token: <|im_end|>, <end_of_turn>, </s>, [/INST]."""


PAD_NAMES = (
    "<|pad|>",
    "<pad>",
    "[PAD]",
    "<|finetune_right_pad_id|>",
    "<|padding|>",
    "<|endoftext|>",
)
"""Names under which tokenizers already carry a token fit for padding, in order of preference."""


@dataclass(frozen=True)
class Template:
    """What turns messages into text.

    Args:
        source: a Jinja chat template; None takes the tokenizer's own.
        path: a file with a Jinja chat template, instead of `source`.
        system: a system prompt for dialogues that bring none.
        response_prefix: text put before the content of the answer that is judged.
        response_suffix: text put after it.
        arguments: values that the template reads, e.g. `enable_thinking: false`.
    """

    source: str | None
    path: str | None
    system: str | None
    response_prefix: str | None
    response_suffix: str | None
    arguments: Mapping[str, Any]

    def check(self) -> None:
        """Refuse a template file that is not there.

        Raises:
            UserError: names it.
        """
        if self.path is not None and not Path(self.path).expanduser().is_file():
            raise UserError(f"template.path={self.path}: there is no such file.")

    def install(self, tokenizer: Any) -> str | None:
        """Give the tokenizer this template (baked), a pad token that is not eos, and right padding.

        Returns the sentence to say where a pad token had to be chosen.

        Raises:
            UserError: there is no template, the file is missing, or it is not valid Jinja.
        """
        tokenizer.chat_template = self._bake(self._find(tokenizer), tokenizer)
        tokenizer.padding_side = "right"
        said = choose_pad_token(tokenizer)
        _check_renders(tokenizer)
        if self.source is not None or self.path is not None:  # its own is as its authors meant it
            _check_tags(tokenizer)
        return said

    def _find(self, tokenizer: Any) -> str:
        if self.path is not None:
            self.check()
            return Path(self.path).expanduser().read_text(encoding="utf-8")
        if self.source is not None:
            return self.source
        own = tokenizer.chat_template
        if isinstance(own, dict):  # several, by name
            own = own.get("default")
        if isinstance(own, str):
            return own
        raise UserError(
            "The tokenizer has no chat template of its own: choose template=chatml, template=plain "
            "or template=jinja template.path=FILE."
        )

    def _bake(self, source: str, tokenizer: Any) -> str:
        settings = (self.system, self.response_prefix, self.response_suffix)
        if source.startswith(BAKED) and not self.arguments and settings == (None, None, None):
            return source  # an export's: it was baked when it was trained
        bos = tokenizer.bos_token if _adds_bos(tokenizer) else ""
        return bake(source, bos, self.arguments, *settings)


def choose_pad_token(tokenizer: Any) -> str | None:
    """Make sure that pad != eos: Hugging Face pools the last token that is not pad.

    Returns the sentence to say where the token had to be chosen or added, else None. A model whose
    embedding is smaller than the tokenizer must be resized afterwards.
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
    """16 hex digits that change when any probe dialogue would get other token ids."""
    seen: list[Any] = []
    for probe in PROBES:
        try:
            seen.append(tokenize(tokenizer, render(tokenizer, [probe]))[0])
        except (
            UserError
        ) as error:  # a template may refuse a system message: that, too, tells it apart
            seen.append(str(error))
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Audit:
    """What the template makes of one example: shown at the start and kept in `environment.json`."""

    fingerprint: str
    bos_count: int
    eos_present: bool
    pooled_token: str
    pad_token: str
    example: str

    def lines(self) -> list[str]:
        """For the terminal."""
        return [
            f"template {self.fingerprint}: BOS x{self.bos_count}, "
            f"EOS {'yes' if self.eos_present else 'NO'}, "
            f"pooled token {self.pooled_token!r}, pad {self.pad_token!r}",
            *("  | " + line for line in self.example.splitlines()),
        ]


def audit_template(tokenizer: Any, text: str, ids: Sequence[int]) -> Audit:
    """Look at one rendered response: how many BOS, is there an EOS, which token is pooled."""
    bos = tokenizer.bos_token_id
    # Where bos also opens every turn (SmolLM2), only those before the first turn count.
    leading = next((n for n, token in enumerate(ids) if token != bos), len(ids))
    return Audit(
        fingerprint=template_fingerprint(tokenizer),
        bos_count=leading if bos is not None else 0,
        eos_present=tokenizer.eos_token_id in ids,
        pooled_token=tokenizer.convert_ids_to_tokens(ids[-1]) if ids else "",
        pad_token=tokenizer.pad_token,
        example=text,
    )


def _adds_bos(tokenizer: Any) -> bool:
    """Does the tokenizer put BOS before every text by itself (as Llama's does)?"""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [
        tokenizer.bos_token_id
    ]


def _check_renders(tokenizer: Any) -> None:
    first, second = render(tokenizer, [PROBES[0]])[0], PROBES[0][-1]["content"]
    if second not in first:
        raise UserError(
            "The chat template does not render the assistant's answer; "
            "nothing could be learnt from it."
        )


def _check_tags(tokenizer: Any) -> None:
    """Say which tags of the template are no tokens: they would be split into pieces."""
    found: set[str] = set()
    for probe in PROBES:
        with suppress(UserError):  # a template may refuse a system message
            found |= set(TAG.findall(render(tokenizer, [probe])[0]))
    if unknown := sorted(found - set(tokenizer.get_vocab())):
        note_fallback(
            f"The template writes {', '.join(unknown)}: the tokenizer has no such tokens "
            "and splits them into pieces."
        )
