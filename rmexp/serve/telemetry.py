"""Prometheus metrics of a server."""

from collections.abc import Callable
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Telemetry:
    """Counts of requests, texts, tokens and batches.

    Args:
        waiting: current number of waiting texts.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = every = CollectorRegistry()
        self._requests = Counter(
            "rmexp_requests", "Requests by route and status.", ["route", "status"], registry=every
        )
        self._seconds = Histogram(
            "rmexp_request_seconds",
            "Seconds of a request.",
            ["route"],
            buckets=SECONDS,
            registry=every,
        )
        self._texts = Counter("rmexp_texts", "Distinct texts computed.", registry=every)
        self._given = Counter("rmexp_tokens_given", "Tokens of the texts.", registry=every)
        self._computed = Counter(
            "rmexp_tokens_computed", "Tokens computed: shared prefixes count once.", registry=every
        )
        self._batch = Histogram(
            "rmexp_batch_texts", "Texts of a batch.", buckets=TEXTS, registry=every
        )
        Gauge("rmexp_waiting_texts", "Texts that wait.", registry=every).set_function(waiting)

    def count_batch(self, texts: int, given: int, computed: int) -> None:
        self._texts.inc(texts)
        self._given.inc(given)
        self._computed.inc(computed)
        self._batch.observe(texts)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    @property
    def requests(self) -> int:
        """Number of requests so far."""
        samples = (sample for metric in self._requests.collect() for sample in metric.samples)
        return int(sum(s.value for s in samples if s.name.endswith("_total")))


class RequestMetrics:
    """ASGI middleware that counts requests; unknown paths are one route, `other`."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app, self.telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status = monotonic(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.telemetry.count_request(route, status, monotonic() - started)
