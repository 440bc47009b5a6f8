"""A reward server under concurrent clients, one text a request.

python -m bench serve [--checkpoint DIR] [--texts N] [--server NAME=URL ...]
python -m bench.serving prepare FOLDER | ask URL FOLDER CLIENTS WORKLOAD FIRST COUNT

Sides are `task=serve` itself and the same server with padded batches (the loop that people write,
with the same batching of requests), each started in turn, and any running server that --server
names: it is asked POST /classify, as vLLM answers it. For vLLM on the same weights:

    python -m bench.serving prepare FOLDER
    export VLLM_TARGET_DEVICE=cpu
    vllm serve FOLDER/start --runner pooling --dtype float32 --enforce-eager --port 9000
    python -m bench serve --checkpoint FOLDER/start --server vllm=http://127.0.0.1:9000

A server that runs already must be a fresh one: texts that it has seen are in its prefix cache.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

from bench.sides import finish
from bench.works import HH, ROOT

FILE = Path(__file__).with_name("serving.jsonl")
WORKLOADS = {"random": "random HH texts", "answers": "8 answers to each prompt"}
CLIENTS = (1, 8, 64)
ANSWERS = 8
TEXTS = 1024
"""Texts of each workload; none is sent twice to a side."""

LONGEST = 480
"""Tokens of a text, as in the other works."""

OWN_SIDES = {"rmexp": "auto", "padded": "padded"}
"""Sides that are started here -> model.layout."""


def prepare(folder: Path) -> None:
    """The model, and `TEXTS` texts of each workload, rendered."""
    from bench.prepare import start

    tokenizer = start(folder)
    write_texts(folder, tokenizer)


def write_texts(folder: Path, tokenizer: Any) -> None:
    from rmexp.data.formats.hh import HH as HHFormat
    from rmexp.data.reader import RowReport, read_comparisons

    draw = random.Random(0)
    rows = list(read_comparisons({None: str(HH)}, HHFormat(), RowReport()))
    draw.shuffle(rows)
    replies = [response for row in rows for response in row.responses]

    def rendered(prompt: Any, response: Any) -> str | None:
        messages = [dict(message) for message in (*prompt, *response)]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return text if len(ids) <= LONGEST else None

    alone = (rendered(row.prompt, draw.choice(row.responses)) for row in rows)
    texts = {"random": _first(alone, TEXTS)}
    texts["answers"] = _first(
        (
            text
            for row in rows
            for texts in [[rendered(row.prompt, draw.choice(replies)) for _ in range(ANSWERS)]]
            if None not in texts
            for text in texts
        ),
        TEXTS,
    )
    (folder / "texts.json").write_text(json.dumps(texts))


def _first(texts: Iterator[str | None], count: int) -> list[str]:
    found = [text for text in texts if text is not None]
    return found[:count]


def measure(
    folder: Path,
    checkpoint: Path,
    texts: int,
    servers: Mapping[str, str],
    process: Callable[..., Any],
) -> dict[str, Any]:
    """All sides: side -> workload -> clients -> figures."""
    if not (folder / "texts.json").is_file():
        import transformers

        write_texts(folder, transformers.AutoTokenizer.from_pretrained(checkpoint))
    found: dict[str, Any] = {}
    for side, layout in OWN_SIDES.items():
        with serving(checkpoint, layout, folder) as url:
            found[side] = ask_all(side, url, folder, texts, process)
    for side, url in servers.items():
        found[side] = ask_all(side, url, folder, texts, process)
    return found


def ask_all(
    side: str, url: str, folder: Path, texts: int, process: Callable[..., Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {name: {} for name in WORKLOADS}
    for workload in WORKLOADS:
        first = 0  # no text is sent twice: vLLM keeps the prefixes of those that it has seen
        for clients in CLIENTS:
            count = max(8, texts * clients // max(CLIENTS), 2 * clients)
            figures = process("bench.serving", "ask", url, folder, clients, workload, first, count)
            first += count
            found[workload][str(clients)] = figures
            print(
                f"serve  {side}  {workload}  {clients} clients  "
                f"{figures['texts_per_second']:.2f} texts/s  p50 {figures['p50']:.2f} s  "
                f"p99 {figures['p99']:.2f} s",
                flush=True,
            )
    return found


@contextlib.contextmanager
def serving(checkpoint: Path, layout: str, folder: Path) -> Iterator[str]:
    """The URL of `task=serve`, in a process of its own."""
    words = ["task=serve", f"checkpoint={checkpoint}", "task.port=0", f"model.layout={layout}"]
    words += ["trainer.precision=32-true", f"hydra.run.dir={folder}/run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rmexp", *words],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    printed = []
    try:
        for line in process.stdout:
            printed.append(line)
            if found := re.search(r"serving .* at (http://\S+)", line):
                yield found[1]
                break
        else:
            sys.exit(f"bench: the server did not start:\n{''.join(printed)}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        process.stdout.close()


def ask(url: str, folder: Path, clients: int, workload: str, first: int, count: int) -> None:
    """Print the figures of `clients` that send `count` texts one after the other."""
    texts = json.loads((folder / "texts.json").read_text())[workload][first : first + count]
    if len(texts) < count:
        sys.exit(f"bench: {TEXTS} texts a workload are too few; lower --texts.")
    seconds, rewards, total = asyncio.run(_run(url, clients, texts))
    shares = quantiles(seconds, n=100, method="inclusive")
    finish(
        {
            "texts_per_second": count / total,
            "texts": count,
            "p50": shares[49],
            "p99": shares[98],
            "rewards": rewards[:8],
        }
    )


async def _run(
    url: str, clients: int, texts: Sequence[str]
) -> tuple[list[float], list[float], float]:
    import httpx

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    seconds, rewards = [0.0] * len(texts), [0.0] * len(texts)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=600) as client:
        # vLLM wants its own name for the model, and adds BOS to rendered texts unless told not to.
        model = (await client.get("/v1/models")).json()["data"][0]["id"]
        body = {"model": model, "use_activation": False, "add_special_tokens": False}

        async def post(text: str) -> float:
            answer = await client.post("/classify", json=body | {"input": text})
            answer.raise_for_status()
            return float(answer.json()["data"][0]["probs"][0])

        await post("warm up")
        numbered = iter(enumerate(texts))

        async def one_client() -> None:
            for n, text in numbered:
                started = time.perf_counter()
                rewards[n] = await post(text)
                seconds[n] = time.perf_counter() - started

        started = time.perf_counter()
        await asyncio.gather(*(one_client() for _ in range(clients)))
        return seconds, rewards, time.perf_counter() - started


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "prepare":
        Path(words[0]).mkdir(parents=True, exist_ok=True)
        prepare(Path(words[0]))
    else:
        ask(words[0], Path(words[1]), int(words[2]), words[3], int(words[4]), int(words[5]))
