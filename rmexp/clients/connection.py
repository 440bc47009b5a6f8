"""Requests to a reward server, repeated while it is busy or away."""

import json
import os
import time
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError

TRIES = 10
LONGEST_WAIT_S = 30.0
TIMEOUT_S = 300.0  # for one answer
BUSY = (502, 503, 504)  # a full queue; a proxy whose server restarts


class RewardServerError(RuntimeError):
    """The server refused a request, or did not answer."""


def post(
    route: str, body: Mapping[str, Any], server: str | None = None, token: str | None = None
) -> Any:
    """POST a JSON body; the JSON that the server answers.

    A busy server (503, with its Retry-After) and a lost connection are tried again for about two
    minutes. Proxies of the environment are not used: a reward server is in one's own network.

    Args:
        route: such as `reward`.
        server: address without a route; None: that of the environment (RMEXP_URL), or this machine.
        token: of the server; None: that of the environment (RMEXP_TOKEN), if there is one.

    Raises:
        RewardServerError: the server refused it (the message is its sentence), or does not answer.
    """
    server = server or os.environ.get("RMEXP_URL", "http://127.0.0.1:8000")
    url = f"{server.rstrip('/')}/{route}"
    if not url.startswith(("http://", "https://")):
        raise RewardServerError(f"{url} is no address of a reward server: it begins with http://.")
    headers = {"Content-Type": "application/json"}
    if token := token or os.environ.get("RMEXP_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for attempt in range(TRIES):
        wait = min(2.0**attempt / 4, LONGEST_WAIT_S)
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except HTTPError as error:
            problem = _sentence(error)
            if error.code not in BUSY:
                raise RewardServerError(f"{url}: {problem}") from None
            asked = error.headers.get("Retry-After", "")
            wait = max(wait, float(asked)) if asked.isdecimal() else wait
        except (OSError, HTTPException) as error:
            problem = str(error)
        if attempt < TRIES - 1:
            time.sleep(wait)
    raise RewardServerError(f"{url} was asked {TRIES} times without success: {problem}")


def _sentence(error: HTTPError) -> str:
    """What the server said; the status if it is no JSON."""
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"
