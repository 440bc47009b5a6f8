"""Texts, token ids and dialogues of requests -> token ids as the model was trained on them."""

from collections.abc import Sequence
from typing import Any

from rmexp.batching.prefix_groups import Tokens
from rmexp.comparison import Message
from rmexp.core.errors import UserError
from rmexp.inference.scorer import as_comparison
from rmexp.serve.limits import RequestLimits
from rmexp.serve.refusals import Refusal
from rmexp.templates.rendering import render, render_comparison, tokenize
from rmexp.templates.template import PROBES, adds_bos, leading_bos

Turn = str | Sequence[Message]
"""A prompt or a response: text, or messages."""


class RequestEncoder:
    """Encodes requests; used by one thread at a time.

    Args:
        tokenizer: with the model's template.
        vocabulary: number of token ids that the model has.
        limits: what is larger is refused and never cut.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, limits: RequestLimits) -> None:
        self.tokenizer, self.vocabulary, self.limits = tokenizer, vocabulary, limits
        dialogue = PROBES[0]
        rendered = render(tokenizer, [dialogue])[0]
        _, _, self._turn_end = rendered.rpartition(dialogue[-1]["content"])
        added = tokenizer.added_tokens_decoder.values()
        self._special = (*tokenizer.all_special_tokens, *(t.content for t in added if t.special))
        self._adds_bos = adds_bos(tokenizer)
        self._template_bos = leading_bos(tokenizer, tokenize(tokenizer, [rendered])[0])

    def texts(self, texts: Sequence[str], name: str, add_bos: bool = True) -> list[Tokens]:
        """Rendered texts, with or without BOS.

        The result begins with as many BOS as the texts that the template writes, whether the client
        has removed the template's or its tokenizer has added another. A tokenizer that adds none
        leaves a text without BOS as it is.

        Args:
            name: of the field, for errors.

        Raises:
            Refusal: a text is empty or too long.
        """
        self.check_count(len(texts), name)
        for n, text in enumerate(texts):
            self._check_text(text, _entry(name, n, len(texts)))
        bos, written = self.tokenizer.bos_token_id, self._template_bos
        found = []
        for n, ids in enumerate(tokenize(self.tokenizer, texts)):
            there = leading_bos(self.tokenizer, ids)
            if there == 0:
                wanted = written if self._adds_bos and add_bos else 0
            else:
                wanted = min(there, written if self._adds_bos else max(written, 1))
            found.append(((bos,) * wanted) + tuple(ids[there:]))
            self._check_length(found[n], _entry(name, n, len(texts)))
        return found

    def token_ids(self, sequences: Sequence[Sequence[int]], name: str) -> list[Tokens]:
        """Token ids, which are used as they are.

        Raises:
            Refusal: there are too many, or an id is not one of the model's.
        """
        self.check_count(len(sequences), name)
        for n, ids in enumerate(sequences):
            entry = _entry(name, n, len(sequences))
            self._check_length(ids, entry)
            if wrong := [token for token in ids if not 0 <= token < self.vocabulary]:
                raise Refusal(
                    422,
                    f"{entry} has the token id {wrong[0]}; the model's are 0 to "
                    f"{self.vocabulary - 1}.",
                )
        return [tuple(ids) for ids in sequences]

    def responses(
        self,
        prompt: Turn,
        responses: Sequence[Turn],
        unfinished: bool = False,
        name: str = "responses",
    ) -> list[Tokens]:
        """A prompt with each of its responses, rendered as in training.

        A prompt that is text and begins with a special token is rendered already: each response,
        then text too, continues it, and ends as the template ends a turn. A response may be empty:
        policies end at once now and then, and training on the server has to go on.

        Args:
            unfinished: the text ends with the response, without an end of turn.
            name: of the field with the responses, for errors.

        Raises:
            Refusal: the prompt or a response cannot be used, or is too long.
        """
        self.check_count(len(responses), name)
        if isinstance(prompt, str) and self._is_rendered(prompt):
            return self.texts(self._continued(prompt, responses, name), name)
        try:
            comparison = as_comparison(prompt, responses, unfinished, blank=True)
            texts = render_comparison(self.tokenizer, comparison)
        except UserError as error:
            raise Refusal(422, str(error)) from None
        for n, text in enumerate(texts):
            self._check_text(text, _entry(name, n, len(texts)))
        found = [tuple(ids) for ids in tokenize(self.tokenizer, texts)]
        for n, ids in enumerate(found):
            self._check_length(ids, _entry(name, n, len(texts)))
        return found

    def dialogue(self, messages: Sequence[Message], unfinished: bool = False) -> list[Tokens]:
        """A whole dialogue, whose last turn is the response.

        Raises:
            Refusal: it cannot be used, or is too long.
        """
        roles = [message.get("role") for message in messages]
        last = max((n for n, role in enumerate(roles) if role == "user"), default=-1)
        if last < 0 or roles[-1] != "assistant":
            raise Refusal(
                422,
                "messages should have a message of the user, and end with the response, a message "
                "of the assistant.",
            )
        return self.responses(
            messages[: last + 1], [messages[last + 1 :]], unfinished, name="messages"
        )

    def _is_rendered(self, prompt: str) -> bool:
        return prompt.lstrip().startswith(self._special)

    def _continued(self, prompt: str, responses: Sequence[Turn], name: str) -> list[str]:
        end = self._turn_end.strip()
        texts = []
        for n, response in enumerate(responses):
            if not isinstance(response, str):
                raise Refusal(
                    422,
                    f"{_entry(name, n, len(responses))} should be text, as the prompt is "
                    "rendered text; or send the prompt as messages.",
                )
            answer = response.rstrip().removesuffix(end) if end else response
            texts.append(prompt + answer + self._turn_end)
        return texts

    def check_count(self, count: int, name: str) -> None:
        if count > self.limits.texts:
            raise Refusal(
                413,
                f"{name} has {count:,} texts, more than task.max_texts={self.limits.texts}: send "
                "several requests.",
            )

    def _check_text(self, text: str, name: str) -> None:
        if not text.strip():
            raise Refusal(422, f"{name} is empty.")
        if len(text) > self.limits.characters:
            raise Refusal(
                413,
                f"{name} has {len(text):,} characters, more than "
                f"task.max_characters={self.limits.characters}.",
            )

    def _check_length(self, ids: Sequence[int], name: str) -> None:
        if len(ids) > self.limits.tokens:
            raise Refusal(
                413,
                f"{name} has {len(ids):,} tokens, more than the {self.limits.tokens:,} that the "
                "server takes, and is not cut: shorten it.",
            )


def _entry(name: str, number: int, count: int) -> str:
    """`input[3]`; the field alone if it has one text."""
    return name if count == 1 else f"{name}[{number}]"
