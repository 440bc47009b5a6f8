"""python -m bench.rows [FILE] [--rows 1000000] [--measure read|tokens|run]: speed of reading rows.

Without a FILE, rows of four layouts are written: prompt with two texts, dialogues as messages,
alpaca's instruction and input, and HH's text. Words are drawn as often as the demo data has them.

read      recognise and read the rows
tokens    that, render and tokenise them with SmolLM2's tokenizer; then start again from the cache
run       a whole run with model=tiny: 100 steps, 1,000 rows each of val and test, the export; then
          what a second start takes for the data
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from rmexp.core.ordered_map import usable_cpus
from rmexp.data.formats.auto import Auto
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Write the rows, and print what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="rows to read, of any container")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows to write without a file")
    parser.add_argument(
        "--words", type=int, default=30, help="of a text; up to three times as many"
    )
    parser.add_argument("--measure", choices=("read", "tokens", "run"), default="read")
    chosen = parser.parse_args()
    measure = {"read": read, "tokens": tokens, "run": run}[chosen.measure]
    with tempfile.TemporaryDirectory(prefix="rmexp-bench-") as folder:
        home = Path(folder)
        file = chosen.file or write(home / "rows.jsonl", chosen.rows, chosen.words)
        print(json.dumps(measure(file, home)))


def write(file: Path, count: int, words: int) -> Path:
    """A file of `count` rows, of which each four have the four layouts."""
    with open(file, "w", encoding="utf-8") as stream:
        for number in range(count):
            stream.write(json.dumps(made(number, words)) + "\n")
    return file


def made(number: int, words: int) -> dict[str, Any]:
    """One row; its texts have `words` to three times as many words."""
    draw = random.Random(number)
    asked, better, worse = (text(number + shift, words, draw) for shift in (0, 3, 7))
    user = {"role": "user", "content": asked}
    sides = {"chosen": better, "rejected": worse}
    if number % 4 == 0:
        return {"prompt": asked, **sides, "subset": f"s{number % 3}"}
    if number % 4 == 1:
        return {
            name: [user, {"role": "assistant", "content": answer}] for name, answer in sides.items()
        }
    if number % 4 == 2:
        return {"instruction": asked, "input": "", **sides}
    return {k: f"\n\nHuman: {asked}\n\nAssistant: {answer}" for k, answer in sides.items()}


def text(number: int, words: int, draw: random.Random) -> str:
    """Words that differ from row to row."""
    known, shares = vocabulary()
    drawn = draw.choices(known, cum_weights=shares, k=words + number % (2 * words))
    return " ".join([*drawn, str(number)])


@cache
def vocabulary() -> tuple[list[str], list[int]]:
    """The words of the English demo rows, and the running sum of how often they occur."""
    counts: Counter[str] = Counter()
    for line in (ROOT / "rmexp/data/demo/demo.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if row["lang"] == "en":
            for said in (row["prompt"][0]["content"], *row["responses"]):
                counts.update(str(said).split())
    sums, total = [], 0
    for count in counts.values():
        total += count
        sums.append(total)
    return list(counts), sums


def read(file: Path, home: Path) -> dict[str, Any]:
    """Rows, comparisons, seconds and CPU seconds of reading, and the peak of resident memory."""
    report = RowReport()
    kept, cost = costs(lambda: count(read_comparisons({None: str(file)}, Auto(), report)))
    return {"rows": report.read, "comparisons": kept, **cost, "read_as": dict(report.read_as)}


def tokens(file: Path, home: Path) -> dict[str, Any]:
    """Comparisons a second of CPU time and of the clock, and the seconds of the second start."""
    from omegaconf import OmegaConf

    from rmexp.config.compose import build, option_values

    def start() -> Any:
        values = option_values("data/jsonl") | {"path": str(file), "cache": str(home)}
        return prepared(OmegaConf.create(values), tokenizer)

    model = build(OmegaConf.create(option_values("model/smollm2") | {"cache": str(home)}))
    tokenizer = model.load_tokenizer()
    build(OmegaConf.create(option_values("template/tokenizer"))).install(tokenizer)
    data, cost = costs(start)
    again, second = costs(start)
    rows = len(data.rows)
    assert (data.from_cache, again.from_cache) == (False, True)
    return {
        "comparisons": rows,
        "tokens_a_comparison": round(data.columns.numbers("size")[:1000].mean()),
        "cpus": usable_cpus(),
        "a_cpu_second": round(rows / cost["cpu_seconds"]),
        "a_second": round(rows / cost["seconds"]),
        **cost,
        "second_start": second,
    }


def prepared(node: Any, tokenizer: Any) -> Any:
    """The data of a configuration, ready to train on."""
    from rmexp.config.compose import build

    data = build(node)
    data.prepare(tokenizer, 0, lambda *_: None)
    data.keep_trainable(("pairs",), "without pairs")
    data.plan()
    return data


def run(file: Path, home: Path) -> dict[str, Any]:
    """The cost of a run by the command line, its result, and the cost of a second start."""
    from rmexp.config.compose import build, compose_config
    from rmexp.config.schema import register

    rows = count(iter(open(file, "rb")))  # noqa: SIM115
    shares = [f"data.{split}_share={1000 / rows}" for split in ("val", "test")]
    words = [
        *("model=tiny", f"data.path={file}", *shares, "trainer.max_steps=100", "logger=none"),
        f"cache={home}/cache",
    ]
    command = [sys.executable, "-m", "rmexp", *words, f"hydra.run.dir={home}/run"]
    _, cost = costs(lambda: subprocess.run(command, check=True, stdout=sys.stderr))
    result = json.loads((home / "run/result.json").read_text())
    register()
    config = compose_config(words)
    tokenizer = build(config.model).load_tokenizer()
    build(config.template).install(tokenizer)
    data, second = costs(lambda: prepared(config.data, tokenizer))
    assert data.from_cache
    return {"rows": rows, **cost, "second_start": second, "result": result}


def costs(work: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What the work returns; its seconds, CPU seconds and the peak of memory of all processes.

    Processes that it started and awaited are included; a page that several share counts once.
    """
    started, before = time.perf_counter(), os.times()
    with PeakMemory() as memory:
        result = work()
    after = os.times()
    sums = [sum(times[:4]) for times in (before, after)]
    return result, {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(sums[1] - sums[0], 2),
        "peak_mib": memory.peak >> 20,
    }


class PeakMemory:
    """The most memory that this process and those it started had together, twice a second."""

    def __enter__(self) -> "PeakMemory":
        self.peak, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            total, own = 0, psutil.Process()
            for process in (own, *own.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # it has ended
                    total += process.memory_full_info().pss
            self.peak = max(self.peak, total)
            if self._ended.wait(0.5):
                return


def count(items: Iterator[Any]) -> int:
    """How many there are, without keeping them."""
    return sum(1 for _ in items)


if __name__ == "__main__":
    main()
