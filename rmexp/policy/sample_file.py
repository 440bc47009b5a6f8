"""Files of sampled responses: rows `id prompt response tokens logprob`, one a response."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rmexp.comparison import Comparison
from rmexp.core.errors import UserError
from rmexp.data.encode import batched_list
from rmexp.inference.resumable_file import ResumableFile
from rmexp.policy.sampling import Decoding, Sampled, sample_responses
from rmexp.templates.rendering import render_prompt, tokenize

PLAIN_KEYS = {"role", "content"}
"""Keys of messages that parquet stores as a list of structures; others make it JSON text."""


class SampleFile(ResumableFile):
    """Rows of sampled responses; those to one prompt are neighbours and share its id.

    `tokens` is the number of the response's tokens, its end token included; `logprob` is their
    summed log-probability under the policy at temperature 1, see `Sampled`. The file counts
    prompts as comparisons.
    """

    def append(
        self, prompts: Sequence[Comparison], texts: Sequence[Sequence[tuple[str, Sampled]]]
    ) -> None:
        """Write the responses of a batch of prompts, some of which may have none."""
        rows = [
            {
                "id": one.id,
                "prompt": [dict(message) for message in one.prompt],
                "response": text,
                "tokens": len(sampled.tokens),
                "logprob": sampled.logprob,
                **({"tools": [dict(tool) for tool in one.tools]} if one.tools else {}),
            }
            for one, responses in zip(prompts, texts, strict=True)
            for text, sampled in responses
        ]
        self.append_rows(rows, len(prompts))

    def schema(self) -> Any:
        """The `pyarrow.Schema`: prompts are lists of messages, or JSON where they have more keys.

        Tools are JSON too, and a column only where some prompt has them.
        """
        import pyarrow

        text, tools, plain = pyarrow.string(), False, True
        for row in self._rows():
            tools |= "tools" in row
            plain &= all(
                set(message) == PLAIN_KEYS and isinstance(message["content"], str)
                for message in row["prompt"]
            )
        message = pyarrow.struct([("role", text), ("content", text)])
        fields = [
            ("id", text),
            ("prompt", pyarrow.list_(message) if plain else text),
            ("response", text),
            ("tokens", pyarrow.int32()),
            ("logprob", pyarrow.float64()),
        ]
        return pyarrow.schema([*fields, *([("tools", text)] if tools else [])])

    def stored(self, row: dict[str, Any], schema: Any) -> dict[str, Any]:
        """A row as the parquet file has it."""
        written = [name for name in ("prompt", "tools") if name in row and _is_text(schema, name)]
        return row | {name: json.dumps(row[name], ensure_ascii=False) for name in written}

    def _rows(self) -> Iterator[dict[str, Any]]:
        with open(self.partial, encoding="utf-8") as stream:
            yield from map(json.loads, stream)


def _is_text(schema: Any, name: str) -> bool:
    return str(schema.field(name).type) == "string"


@dataclass(frozen=True)
class ResponseSampler:
    """A policy that is ready to answer.

    Args:
        model: the language model.
        tokenizer: with its chat template.
        ends: ids of the tokens that end a response.
        context: tokens that a prompt and its response may have together.
        decoding: how responses are drawn.
        k: responses a prompt.
        batch_size: responses that are drawn together.
        seed: of the random numbers.
    """

    model: Any
    tokenizer: Any
    ends: Sequence[int]
    context: int
    decoding: Decoding
    k: int
    batch_size: int
    seed: int

    def stream(
        self,
        comparisons: Iterable[Comparison],
        file: SampleFile,
        check: Callable[[], None],
        progress: Callable[[list[Sampled]], None],
    ) -> None:
        """Answer the distinct prompts of comparisons, after those that the file already has.

        Args:
            check: called before a batch is answered; raises if bad rows must stop the task.
            progress: called with the responses of each batch.
        """
        prompts = islice(distinct_prompts(comparisons), file.comparisons, None)
        for batch in batched_list(prompts, max(1, self.batch_size // self.k)):
            check()
            encoded = [self._encode(one, file) for one in batch]
            here = [n for n, ids in enumerate(encoded) if ids is not None]
            found = dict(zip(here, self._answer(batch, encoded, here), strict=True))
            texts = [
                [(self._text(one), one) for one in found.get(n, ())] for n in range(len(batch))
            ]
            file.append(batch, texts)
            progress([one for responses in found.values() for one in responses])

    def _answer(
        self, batch: Sequence[Comparison], encoded: Sequence[list[int] | None], here: list[int]
    ) -> list[list[Sampled]]:
        """The responses to the prompts `here`; many to one prompt are drawn in several batches."""
        found: list[list[Sampled]] = [[] for _ in here]
        ids = [encoded[n] or [] for n in here]
        keys = [batch[n].prompt_key for n in here]
        for numbers in batched_list(range(self.k), self.batch_size) if here else ():
            drawn = sample_responses(
                self.model, ids, keys, numbers, self.decoding, self.ends, self.seed
            )
            for responses, more in zip(found, drawn, strict=True):
                responses += more
        return found

    def _encode(self, one: Comparison, file: SampleFile) -> list[int] | None:
        """Token ids of a prompt; None, and counted, if it cannot be answered."""
        try:
            text = render_prompt(self.tokenizer, one.prompt, one.tools)
        except UserError as error:  # the template refuses a role or an order of roles
            file.report.add_bad(one.place, str(error))
            return None
        (ids,) = tokenize(self.tokenizer, [text])
        if len(ids) + self.decoding.max_new_tokens > self.context:
            least = f"{self.decoding.max_new_tokens} of {self.context} tokens"
            file.report.drop(
                f"prompts that fill the context: fewer than {least} are left for a response",
                one.subset,
            )
            return None
        return ids

    def _text(self, one: Sampled) -> str:
        text: str = self.tokenizer.decode(one.tokens, skip_special_tokens=True)
        return text


def distinct_prompts(comparisons: Iterable[Comparison]) -> Iterator[Comparison]:
    """The first comparison of each prompt."""
    seen = set[str]()
    for one in comparisons:
        if (key := one.prompt_key) not in seen:
            seen.add(key)
            yield one
