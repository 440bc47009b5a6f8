"""Comparisons as token ids on disk: written once, memory-mapped ever after.

The cache's key is made of the bytes of the source, the format, the reading options, and what the
template and tokenizer do; a second start with the same key reads nothing and tokenises nothing.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from rmexp.batching.prefix_tree import PrefixTreeBuilder
from rmexp.comparison import Comparison, pairs_from_ratings
from rmexp.core.disk_cache import build_once
from rmexp.core.errors import UserError
from rmexp.data.reader import Format, RowReport, check_bad_rows, read_comparisons
from rmexp.data.splits import SplitKey
from rmexp.data.text_style import spoken, text_style
from rmexp.templates import rendering
from rmexp.templates.template import template_fingerprint

TOKEN_CACHE_VERSION = 7
"""Part of every cache key: raise it when what is stored changes."""


ROWS_PER_CHUNK = 512
"""Comparisons that are rendered and tokenised together."""


TOKEN_SCHEMA = datasets.Features(
    {
        "id": datasets.Value("string"),
        "subset": datasets.Value("string"),
        "split": datasets.Value("string"),
        "group": datasets.Value("string"),
        "language": datasets.Value("string"),
        "prompt_key": datasets.Value("string"),
        "tokens": datasets.List(datasets.List(datasets.Value("int32"))),
        "texts": datasets.List(datasets.Value("string")),
        "lengths": datasets.List(datasets.Value("int32")),
        "style": datasets.List(datasets.List(datasets.Value("int32"))),
        "ratings": datasets.List(datasets.Value("float64")),
        "pairs": datasets.List(datasets.List(datasets.Value("int32"))),
        "margins": datasets.List(datasets.Value("float64")),
        "votes": datasets.List(datasets.List(datasets.Value("float32"))),
        "weights": datasets.List(datasets.Value("float64")),
        "levels": datasets.List(datasets.Value("int32")),
        "weight": datasets.Value("float64"),
    }
    | {
        name: datasets.Value("int32")
        for name in (
            "size",
            "longest",
            "judged",
            "tied",
            "voted",
            "rated",
            "ranked",
            "without_margin",
            "without_ratings",
            "longer_wins",
            "shorter_wins",
        )
    }
)
"""A row a comparison.

`lengths` are the tokens of each response, and `style` its counts of `style.STYLE`: what validations
need of the texts. `pairs` holds (i, j, verdict) a judgement: verdict 1 says i is better, 0 a tie;
`votes` the shares for i, for j and for a tie; `levels` a response's place in the order (-1: outside
of it). Numbers that plans and checks need of every row: `size`, the tokens of the row's tree;
`longest`, of its longest response with the prompt; `judged` and `tied`, its strict judgements and
its ties; `voted`, how many of both are of more than one mind; `rated`, its ratings; `ranked`, the
levels of its order; of the strict judgements, how many are `without_margin`, `without_ratings` of
both responses, and in how many the longer one wins and the shorter one.
"""


@dataclasses.dataclass(frozen=True)
class TokenizeSpec:
    """Everything that decides what the tokenised rows are.

    Args:
        paths: our split (None: to be split) -> file, directory or hub id.
        parse: the format.
        limit: comparisons taken from each path, from its start; None takes all.
        on_bad_row: `raise` or `skip`.
        max_bad_share: share of bad rows (0..1) above which even `skip` stops.
        min_rating_gap: ratings at least this far apart make a pair; None makes none of them.
        max_length: tokens a prompt and a response may have together.
        group: whose keys messages name: `data` or `eval`.
    """

    paths: Mapping[str | None, str]
    parse: Format
    limit: int | None
    on_bad_row: str
    max_bad_share: float
    min_rating_gap: float | None
    max_length: int
    group: str = "data"

    def key(self, tokenizer: Any) -> str:
        """The cache's key (24 hex digits)."""
        if tokenizer is None:
            return _digest([TOKEN_CACHE_VERSION, self.source_key])
        backend = getattr(tokenizer, "backend_tokenizer", None)
        words = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab())
        return _digest(
            [
                TOKEN_CACHE_VERSION,
                self.source_key,
                tokenizer.chat_template,
                template_fingerprint(tokenizer),
                words,
            ]
        )

    @functools.cached_property
    def source_key(self) -> str:
        """What the rows are, whatever the template and tokenizer (24 hex digits)."""
        options = [self.on_bad_row, self.max_bad_share, self.min_rating_gap]
        return _digest([self.dialogues_key, options])

    @functools.cached_property
    def dialogues_key(self) -> str:
        """What prompts and responses there are, whatever is done about bad rows (24 hex digits)."""
        sources = {str(split): source_fingerprint(path) for split, path in self.paths.items()}
        return _digest([sources, _code(self.parse), self.limit, self.max_length])


def _code(parse: Format) -> list[str]:
    """A format by its settings and its code: an edited one must not be served stale rows."""
    files = sorted((Path(__file__).parent / "formats").glob("*.py"))
    own = inspect.getsourcefile(parse if inspect.isfunction(parse) else type(parse))
    code = [file.read_text() for file in [*files, *([Path(own)] if own else [])]]
    return [repr(parse), _digest(code)]


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def source_fingerprint(path: str) -> str:
    """A hash of a file's bytes, of a directory's names, sizes and times, or of a hub id itself."""
    file = Path(path).expanduser()
    digest = hashlib.sha256(str(path).encode() if not file.exists() else b"")
    if file.is_file():
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    for part in sorted(file.rglob("*")) if file.is_dir() else ():
        stat = part.stat()
        digest.update(f"{part.relative_to(file)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class TokenTable:
    """The tokenised rows of a source.

    rows        a data set with `TOKEN_SCHEMA`
    report      of reading and tokenising
    from_cache  they were tokenised earlier
    dropped     readable comparisons that tokenising dropped: too long, refused by the template
    """

    rows: datasets.Dataset
    report: RowReport
    from_cache: bool
    dropped: list[SplitKey]


def load_or_tokenise(
    recipe: TokenizeSpec, tokenizer: Any, cache: Path, progress: Callable[[str, int], None]
) -> TokenTable:
    """Load the tokenised rows from the cache, or tokenise the source into it.

    Args:
        tokenizer: None measures rows in characters, for rewards that need no model: texts are then
            plain, tokens are the responses' code points, and no row is too long.
        progress: called with what is counted and the count so far.

    Raises:
        UserError: the source or too many of its rows cannot be used.
    """
    home = cache / "tokenised" / recipe.key(tokenizer)
    with build_once(home, "report.json") as folder:
        if folder is not None:
            _write(recipe, tokenizer, folder, progress)
    stored = json.loads((home / "report.json").read_text())
    return TokenTable(
        datasets.Dataset.from_file(str(home / "rows.arrow")),
        RowReport.from_dict(stored["report"]),
        folder is None,
        [SplitKey(*key) for key in stored["dropped"]],
    )


def _write(
    recipe: TokenizeSpec, tokenizer: Any, home: Path, progress: Callable[[str, int], None]
) -> None:
    from datasets.arrow_writer import ArrowWriter

    report, dropped = RowReport(), []
    comparisons = read_comparisons(recipe.paths, recipe.parse, report, recipe.limit)
    with ArrowWriter(path=str(home / "rows.arrow"), features=TOKEN_SCHEMA) as writer:
        for one, row in _tokenised_rows(comparisons, recipe, tokenizer, report):
            if row is None:
                dropped.append(SplitKey(one.prompt_key, one.split, one.group))
                continue
            writer.write(row)
            report.kept += 1
            if report.kept % ROWS_PER_CHUNK == 0:
                progress("comparisons tokenised", report.kept)
        check_bad_rows(report, recipe.on_bad_row, recipe.max_bad_share, recipe.group)
        if report.kept == 0:
            raise UserError(
                f"No comparison is left of {report.read} rows: {'; '.join(report.lines()[1:])}."
            )
        writer.finalize()
    stored = {"report": report.to_dict(), "dropped": dropped}
    (home / "report.json").write_text(json.dumps(stored, ensure_ascii=False, indent=1))


def _tokenised_rows(
    comparisons: Iterable[Comparison], recipe: TokenizeSpec, tokenizer: Any, report: RowReport
) -> Iterator[tuple[Comparison, dict[str, Any] | None]]:
    """Comparisons with their rows; None where a comparison is dropped."""
    for chunk in batched_list(comparisons, ROWS_PER_CHUNK):
        encoded = (
            map(_in_characters, chunk)
            if tokenizer is None
            else encode(chunk, tokenizer, recipe.max_length, report)
        )
        for comparison, texts, tokens in encoded:
            row = _row(comparison, texts, tokens, recipe, report) if tokens else None
            yield comparison, row


def _in_characters(comparison: Comparison) -> tuple[Comparison, list[str], list[list[int]]]:
    """Plain texts of prompt and response, and the code points of each response."""
    prompt, *responses = (
        "\n".join(
            spoken([m]) + (json.dumps(m["tool_calls"]) if m.get("tool_calls") else "") for m in part
        )
        for part in (comparison.prompt, *comparison.responses)
    )
    texts = [f"{prompt}\n\n{response}" for response in responses]
    return comparison, texts, [list(map(ord, response)) or [0] for response in responses]


def encode(
    comparisons: Sequence[Comparison], tokenizer: Any, max_length: int, report: RowReport
) -> Iterator[tuple[Comparison, list[str], list[list[int]]]]:
    """Render and tokenise some comparisons together; one that cannot be has no tokens.

    What a template refuses, what lost its oldest turns to fit `max_length`, and what did not fit
    even so, is counted in `report`.
    """
    rendered = []
    for comparison in comparisons:
        try:
            rendered.append(rendering.render_comparison(tokenizer, comparison))
        except UserError as error:  # a template may refuse a role or an order of roles
            report.add_bad(comparison.place, str(error))
            rendered.append([])
    flat = iter(rendering.tokenize(tokenizer, [text for texts in rendered for text in texts]))
    for comparison, texts in zip(comparisons, rendered, strict=True):
        tokens = [next(flat) for _ in texts]
        if max(map(len, tokens), default=0) > max_length:
            texts, tokens = _fitted(comparison, tokenizer, max_length, report)
        yield comparison, texts, tokens


def _fitted(
    comparison: Comparison, tokenizer: Any, max_length: int, report: RowReport
) -> tuple[list[str], list[list[int]]]:
    try:
        shorter = rendering.fit(tokenizer, comparison, max_length)
    except UserError as error:  # refused once its oldest turns were gone
        report.add_bad(comparison.place, str(error))
        return [], []
    if shorter is None:
        report.drop(f"longer than {max_length} tokens", comparison.subset)
        return [], []
    report.trim(f"oldest prompt turns, to fit {max_length} tokens", comparison.subset)
    return shorter


def _row(
    comparison: Comparison,
    texts: list[str],
    tokens: list[list[int]],
    recipe: TokenizeSpec,
    report: RowReport,
) -> dict[str, Any] | None:
    unrated = comparison.ratings is None
    if unrated and len(set(map(tuple, tokens))) < len(tokens) and len(comparison.responses) == 2:
        report.drop("both answers are the same once rendered", comparison.subset)
        return None
    levels = [-1 if level is None else level for level in comparison.levels()]
    if recipe.min_rating_gap is not None:
        comparison = pairs_from_ratings(comparison, recipe.min_rating_gap)
    kept = [j for j in comparison.judgements if tokens[j.i] != tokens[j.j]]
    if len(kept) < len(comparison.judgements):
        report.trim("judgements between answers that are the same", comparison.subset)
    judged = [j if j.verdict >= 0 else j.flipped() for j in kept]
    strict = [j for j in judged if j.verdict]
    ratings = [np.nan if r is None else r for r in comparison.ratings or [None] * len(tokens)]
    return {
        "id": comparison.id,
        "subset": comparison.subset,
        "split": comparison.split,
        "group": comparison.group,
        "language": comparison.language,
        "prompt_key": comparison.prompt_key,
        "tokens": tokens,
        "texts": texts,
        "lengths": [len(ids) for ids in tokens],
        "style": [text_style(response) for response in comparison.responses],
        "ratings": ratings,
        "pairs": [[j.i, j.j, j.verdict] for j in judged],
        "margins": [np.nan if j.margin is None else j.margin for j in judged],
        "votes": [j.shares for j in judged],
        "weights": [j.weight for j in judged],
        "levels": levels,
        "weight": comparison.weight,
        "size": PrefixTreeBuilder().with_sequences(tokens).size,
        "longest": max(map(len, tokens)),
        "judged": len(strict),
        "tied": len(judged) - len(strict),
        "voted": sum(max(j.shares) < 1 for j in judged),
        "rated": sum(r == r for r in ratings),
        "ranked": len(set(levels) - {-1}),
        "without_margin": sum(j.margin is None for j in strict),
        "without_ratings": sum(not ratings[j.i] - ratings[j.j] > 0 for j in strict),
        "longer_wins": sum(len(tokens[j.i]) > len(tokens[j.j]) for j in strict),
        "shorter_wins": sum(len(tokens[j.i]) < len(tokens[j.j]) for j in strict),
    }


def batched_list(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of up to `size` items (itertools.batched is Python 3.12)."""
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
