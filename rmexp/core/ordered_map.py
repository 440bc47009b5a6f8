"""A function over many items, in worker processes once there are enough of them."""

import functools
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from rmexp.core.errors import note_fallback

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""Items for each worker that are handed out before the first result is awaited."""


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    alone: int,
    environment: Mapping[str, str],
) -> Generator[Result, None, None]:
    """`map(function, items)`; after the first `alone` items, worker processes take the others.

    Until the workers have started, and if they cannot or are killed, this process applies the
    function.

    Args:
        function: of one item; with picklable results. It is sent to each worker once.
        workers: processes; fewer than 2: none.
        environment: further environment variables of the workers.
    """
    waiting: deque[tuple[Future[Result] | None, Item]] = deque()
    with tempfile.TemporaryDirectory(prefix="rmexp-") as folder:
        pool = None
        try:
            for number, item in enumerate(items):
                if number == alone and workers > 1 and not multiprocessing.current_process().daemon:
                    pool = _Pool.start(function, workers, environment, Path(folder) / "function")
                if pool is None or not pool.is_ready():
                    yield function(item)
                    continue
                waiting.append((pool.submit(item), item))
                if len(waiting) > AHEAD * workers:
                    yield _result(function, *waiting.popleft())
            while waiting:
                yield _result(function, *waiting.popleft())
        finally:
            if pool is not None:
                pool.executor.shutdown(cancel_futures=True)


class _Pool:
    """Worker processes that apply the function in a file."""

    def __init__(self, executor: ProcessPoolExecutor, file: str) -> None:
        self.executor, self.file = executor, file
        self._first = executor.submit(_load, file)
        self._failed = False

    @classmethod
    def start(
        cls, function: Any, workers: int, environment: Mapping[str, str], file: Path
    ) -> "_Pool | None":
        """A pool that begins to start; None with a note if the function cannot be sent."""
        try:
            file.write_bytes(pickle.dumps(function))
        except Exception as error:  # of any type: the function holds code of a user or a model
            _note(error)
            return None
        context = multiprocessing.get_context("spawn")
        arguments = (dict(environment),)
        return cls(ProcessPoolExecutor(workers, context, _begin, arguments), str(file))

    def is_ready(self) -> bool:
        """Whether a worker has started; False with a note if none can."""
        if self._failed or not self._first.done():
            return False
        if (error := self._first.exception()) is not None:
            self._failed = True
            _note(error)
        return not self._failed

    def submit(self, item: Any) -> Future[Any] | None:
        """None: the workers are gone."""
        try:
            return self.executor.submit(_apply, self.file, item)
        except BrokenProcessPool:
            return None


def _note(error: BaseException) -> None:
    note_fallback(f"Large data is read by one process: workers do not start ({error!r:.150}).")


def _result(
    function: Callable[[Item], Result], future: Future[Result] | None, item: Item
) -> Result:
    try:
        return function(item) if future is None else future.result()
    except BrokenProcessPool:
        return function(item)


def _begin(environment: Mapping[str, str]) -> None:
    """In a worker: it ends with its parent, however that ends, and ignores Ctrl-C."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@functools.lru_cache(maxsize=1)
def _function_in(file: str) -> Any:
    return pickle.loads(Path(file).read_bytes())


def _load(file: str) -> None:
    _function_in(file)


def _apply(file: str, item: Any) -> Any:
    return _function_in(file)(item)


def usable_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
