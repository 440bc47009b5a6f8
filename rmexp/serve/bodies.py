"""Request bodies: read up to a limit, strict JSON, and given up when the client is gone."""

import asyncio
import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from rmexp.serve.refusals import Refusal

CLIENT_GONE = 499
"""Status in metrics of a request whose client did not wait (nginx's number)."""


class StrictRequest(Request):
    """A request whose body is limited, UTF-8, and JSON without NaN, Infinity and lone surrogates.

    `app.state.limits` has the limit.
    """

    async def body(self) -> bytes:
        """The body.

        Raises:
            Refusal: it is larger than the limit; the rest of it is not read.
        """
        if not hasattr(self, "_body"):
            limit = self.app.state.limits.body_bytes
            declared = self.headers.get("content-length", "0")
            if declared.isdecimal() and int(declared) > limit:
                _too_large(limit)
            read = bytearray()
            async for chunk in self.stream():
                read += chunk
                if len(read) > limit:
                    _too_large(limit)
            self._body = bytes(read)
        return self._body

    async def json(self) -> Any:
        """The body as JSON.

        Raises:
            Refusal: it is none.
        """
        if not hasattr(self, "_json"):
            self._json = parse_json(await self.body())
        return self._json


def _too_large(limit: int) -> NoReturn:
    raise Refusal(
        413,
        f"The body is larger than task.max_body_mib={limit / 2**20:g} allows: send fewer texts.",
        {"Connection": "close"},
    )


def parse_json(body: bytes) -> Any:
    """Strict JSON.

    Raises:
        Refusal: it is not UTF-8, no JSON, or has NaN, Infinity or lone surrogates.
    """
    try:
        text = body.decode()
        content = json.loads(text, parse_constant=_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise Refusal(400, f"The body is not UTF-8 (at byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise Refusal(
            400, f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})."
        ) from None
    except RecursionError:
        raise Refusal(400, "The body is not usable JSON: it is nested too deeply.") from None
    except ValueError as error:
        raise Refusal(400, f"The body is not usable JSON: {error}.") from None
    if "\\ud" in text.lower():
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise Refusal(
                400, "The body has half of a surrogate pair (like \\ud800), which is no character."
            ) from None
    return content


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is too large for a number")
    return value


class StrictRoute(APIRoute):
    """A route with strict bodies that is cancelled when its client disconnects."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            strict = StrictRequest(request.scope, request.receive)
            if request.method != "POST":
                return await handler(strict)
            try:
                await _check_json_type(strict)
            except ClientDisconnect:
                return Response(status_code=CLIENT_GONE)
            return await _while_connected(strict, handler(strict))

        return handle


async def _check_json_type(request: StrictRequest) -> None:
    """Read the body; browsers send other types to any address without asking it (CSRF).

    Raises:
        Refusal: it is empty or not marked as JSON.
    """
    if not await request.body():
        raise Refusal(400, "The request has no body: send JSON.")
    kind = request.headers.get("content-type", "none").partition(";")[0].strip()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Refusal(
            415, f"The Content-Type is {kind}: send the header Content-Type: application/json."
        )


async def _while_connected(request: Request, handler: Coroutine[Any, Any, Response]) -> Response:
    """The handler's response; it is cancelled if the client disconnects before."""
    work = asyncio.ensure_future(handler)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        return Response(status_code=CLIENT_GONE)
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
