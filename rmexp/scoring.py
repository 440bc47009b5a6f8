"""A reward model at work: comparisons in, rewards out, from Python or over a file of any length."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rmexp.batches import Collate, Layout, unjudged
from rmexp.calibration import Calibration
from rmexp.comparisons import Comparison, Message
from rmexp.errors import UserError
from rmexp.export import check_fingerprint
from rmexp.formats.parts import prompt_messages, response_messages
from rmexp.layout import choose_layout
from rmexp.model import check_padding, positions, rewards
from rmexp.reading import RowReport
from rmexp.sources import BadRow
from rmexp.tokenised import batched_list, encode
from rmexp.training import TrainerSettings
from rmexp.trees import Growth

WINDOW = 512
"""Comparisons that are tokenised, packed and scored together, and then written."""

Scale = Literal["reward", "normalised", "rating"]

SUFFIXES = (".jsonl", ".parquet")


@dataclass
class Scorer:
    """A reward model with its tokenizer, ready to score.

    Args:
        model: see `model.prepare`; in the layout that `layout.choose_layout` chose.
        tokenizer: with the template that the model was trained with.
        layout: `mixed`, `tree` or `padded`, see `batches.Collate`.
        precision: `bf16-mixed` or `32-true`; rewards come out in fp32 either way.
        max_length: tokens of a prompt and a response; longer dialogues lose their oldest turns.
        micro_batch_tokens: tokens through the model at once.
        calibration: what val taught of the reward's scale; None: the model brings none.
    """

    model: Any
    tokenizer: Any
    layout: Layout
    precision: Literal["bf16-mixed", "32-true"] = "32-true"
    max_length: int = 1024
    micro_batch_tokens: int = 4096
    calibration: Calibration | None = None

    def score(
        self,
        prompt: str | Sequence[Message],
        responses: Sequence[str | Sequence[Message]],
        unfinished: bool = False,
        scale: Scale = "reward",
    ) -> list[float]:
        """The reward of each response to a prompt; the prompt is computed once for all of them.

        Args:
            prompt: text (one user message) or a list of messages.
            responses: texts, or lists of messages that begin with the assistant's.
            unfinished: they are the first steps of answers, read at their last token without an end
                of turn, as models trained on rated steps (data=stepwise) were.
            scale: `reward` as the model gives it; `normalised`: mean 0 and deviation 1 on val;
                `rating`: what raters would give. Order and comparisons are those of the rewards.

        Raises:
            UserError: prompt or response cannot be used, or does not fit in `max_length`, or the
                model does not bring the scale along.
        """
        convert = self._conversion(scale)
        try:
            comparison = Comparison(
                id="",
                prompt=prompt_messages(prompt),
                responses=tuple(
                    response_messages(response, f"responses[{k}]")
                    for k, response in enumerate(responses)
                ),
                unfinished=unfinished,
                place="the prompt",
            )
        except (BadRow, ValueError) as error:
            raise UserError(f"Cannot be scored: {error}.") from None
        report = RowReport()
        found = self.comparisons([comparison], report)[0]
        if found is None:
            raise UserError(f"Cannot be scored: {'; '.join(report.places + report.lines()[1:])}.")
        return found if convert is None else convert(np.array(found)).tolist()

    def _conversion(self, scale: Scale) -> Callable[[Any], Any] | None:
        """What turns rewards into another scale; None: nothing is to be turned."""
        if scale == "reward":
            return None
        if self.calibration is None:
            raise UserError(f"scale={scale}: the model has no calibration.json.")
        if scale == "rating" and self.calibration.isotonic is None:
            raise UserError("scale=rating: the model's validation rows had no ratings.")
        return self.calibration.rating if scale == "rating" else self.calibration.normalised

    @torch.inference_mode()
    def comparisons(
        self, comparisons: Sequence[Comparison], report: RowReport
    ) -> list[list[float] | None]:
        """The rewards of each comparison's responses, in order; None where it cannot be scored.

        `report` counts why, and what lost a part of its prompt.
        """
        encoded = list(encode(comparisons, self.tokenizer, self.max_length, report))
        rows = []
        for comparison, _, tokens in encoded:
            key = comparison.prompt_key  # a hash of the prompt: once, however many parts there are
            rows += [unjudged(part, key) for part in self._parts(tokens)]
        found: list[list[float]] = [[] for _ in rows]
        device = next(self.model.parameters()).device
        collate = Collate(
            self.tokenizer.pad_token_id, self.micro_batch_tokens, self.layout, positions(self.model)
        )
        self.model.eval()
        lower = torch.autocast(device.type, torch.bfloat16, self.precision == "bf16-mixed")
        step = collate([row | {"row": n} for n, row in enumerate(rows)])
        with lower:  # around all of them: autocast keeps the weights that it cast until its end
            for batch in step.batches:
                rewards_N = rewards(self.model, batch.to(device)).tolist()
                for n, reward in zip(batch.items_N.tolist(), rewards_N, strict=True):
                    found[n].append(reward)
        flat = chain.from_iterable(found)
        return [list(islice(flat, len(tokens))) or None for _, _, tokens in encoded]

    def _parts(self, tokens: list[list[int]]) -> list[list[list[int]]]:
        """The responses that stay together: all, unless they are more than a micro-batch."""
        if Growth().with_sequences(tokens).size > self.micro_batch_tokens:
            return [[ids] for ids in tokens]
        return [tokens] if tokens else []


def open_scorer(
    source: Any,
    tokenizer: Any,
    trainer: TrainerSettings,
    layout: Literal["auto", "tree", "padded"],
    max_length: int | None,
    micro_batch_tokens: int = 4096,
    calibration: Calibration | None = None,
) -> Scorer:
    """Load a trained reward model, check it, and choose its layout.

    Args:
        source: see `loading`.
        tokenizer: its own, with the template installed.
        trainer: says precision and device.
        max_length: None takes what the model can place; more than that is never taken.
        calibration: see `Scorer`.

    Raises:
        UserError: it has no reward head, or was trained with another template.
    """
    if (directory := getattr(source, "path", None)) is not None:
        check_fingerprint(Path(directory), tokenizer)
    model = source.load_model(tokenizer, 0)
    if model.fresh_head:
        raise UserError(f"{source.path} has no reward head: train it first.")
    model.to(trainer.device())
    check_padding(model, tokenizer.pad_token_id)
    most = [length for length in (max_length, positions(model)) if length is not None]
    return Scorer(
        model,
        tokenizer,
        choose_layout(model, layout),
        trainer.resolved_precision(),
        min(most, default=sys.maxsize),
        micro_batch_tokens,
        calibration,
    )


def check_out(out: str) -> Path:
    """The file to write.

    Raises:
        UserError: it exists, its folder does not, or its ending is none that can be written.
    """
    file = Path(out).expanduser()
    if file.suffix not in SUFFIXES:
        raise UserError(f"out={out}: name a file that ends in {' or '.join(SUFFIXES)}.")
    if file.exists():
        raise UserError(f"out={out} exists; remove it, or name another file.")
    if not file.parent.is_dir():
        raise UserError(f"out={out}: there is no folder {file.parent}.")
    return file


class ScoreFile:
    """Rows `id response reward`, appended in windows; after a kill it goes on behind the last one.

    Until the end they stand in OUT.partial, and OUT.partial.json says how far they are whole. Where
    one of the two is missing or short, it begins anew.

    Args:
        out: the file to write, see `check_out`.
        key: what the rewards depend on; another key does not go on with the rows of this one.

    Raises:
        UserError: rows of another key stand there.
    """

    def __init__(self, out: Path, key: Sequence[str]) -> None:
        self.out = out
        self.partial = out.with_name(out.name + ".partial")
        self.state = out.with_name(out.name + ".partial.json")
        self.key = hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()[:24]
        self.comparisons = self.responses = self.bytes = 0
        self.report = RowReport()
        stored = json.loads(self.state.read_text()) if self.state.is_file() else None
        if stored and self.partial.is_file() and self.partial.stat().st_size >= stored["bytes"]:
            if stored["key"] != self.key:
                raise UserError(
                    f"{self.partial} was begun with another checkpoint, data or setting: remove "
                    f"it and {self.state.name}, or name another out."
                )
            self.comparisons, self.responses = stored["comparisons"], stored["responses"]
            self.bytes = stored["bytes"]
            self.report = RowReport.from_dict(stored["report"])
        with open(self.partial, "ab") as stream:
            stream.truncate(self.bytes)

    def append(self, names: Sequence[str], rewards: Sequence[Sequence[float | None]]) -> None:
        """Write a window's rows, then say that they are whole."""
        rows = [
            json.dumps({"id": name, "response": k, "reward": reward}, ensure_ascii=False) + "\n"
            for name, found in zip(names, rewards, strict=True)
            for k, reward in enumerate(found)
        ]
        with open(self.partial, "ab") as stream:
            stream.write("".join(rows).encode())
            stream.flush()
            os.fsync(stream.fileno())
            self.bytes = stream.tell()
        self.comparisons += len(names)
        self.responses += len(rows)
        aside = self.state.with_name("." + self.state.name)
        aside.write_text(
            json.dumps(
                {
                    "key": self.key,
                    "comparisons": self.comparisons,
                    "responses": self.responses,
                    "bytes": self.bytes,
                    "report": self.report.to_dict(),
                }
            )
        )
        os.replace(aside, self.state)

    def finish(self) -> None:
        """All rows are there: give them their name, as parquet where it says so."""
        if self.out.suffix == ".parquet":
            aside = self.out.with_name("." + self.out.name)
            _to_parquet(self.partial, aside)
            os.replace(aside, self.out)
            self.partial.unlink()
        else:
            os.replace(self.partial, self.out)
        self.state.unlink(missing_ok=True)


def _to_parquet(lines: Path, out: Path) -> None:
    """JSON lines to parquet, a batch at a time."""
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        [("id", pyarrow.string()), ("response", pyarrow.int32()), ("reward", pyarrow.float32())]
    )
    with (
        open(lines, encoding="utf-8") as stream,
        pyarrow.parquet.ParquetWriter(out, schema) as writer,
    ):
        for chunk in batched_list(map(json.loads, stream), 2**14):
            writer.write_table(pyarrow.Table.from_pylist(chunk, schema=schema))


def score_stream(
    comparisons: Iterable[Comparison],
    scorer: Scorer,
    file: ScoreFile,
    check: Callable[[], None],
    progress: Callable[[str, int], None],
) -> None:
    """Score comparisons into `file`, from where it stands; memory holds one window.

    `check` is called before a window is scored: it raises where bad rows are not to be skipped.
    """
    rest = iter(comparisons)
    done = file.comparisons
    for _ in islice(rest, done):
        pass
    for window in batched_list(rest, WINDOW):
        check()
        found = scorer.comparisons(window, file.report)
        empty = (len(comparison.responses) for comparison in window)
        rows: list[Sequence[float | None]] = [
            r or [None] * k for r, k in zip(found, empty, strict=True)
        ]
        file.append([comparison.id for comparison in window], rows)
        progress("responses scored", file.responses)
