"""Who may ask: the token, and the addresses that need one."""

import base64
import binascii
import errno
import hmac
import ipaddress
import socket

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from rmexp.core.errors import UserError
from rmexp.serve.refusals import error_response

OPEN_PATHS = ("/", "/health", "/docs", "/openapi.json")
"""Paths that tell nothing of the model, so that they need no token; files of the page too."""


class TokenCheck:
    """ASGI middleware that asks for the token.

    It is sent as `Authorization: Bearer TOKEN`, or as the password of Basic authentication, which
    clients that take only a URL send for http://user:TOKEN@host:port.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or path in OPEN_PATHS or path.startswith("/page/"):
            return await self.app(scope, receive, send)
        given = _credentials(Headers(scope=scope).get("authorization", ""))
        if hmac.compare_digest(given, self.token):
            return await self.app(scope, receive, send)
        sentence = "The token is missing or wrong: send the header Authorization: Bearer TOKEN."
        await error_response(401, sentence, {"WWW-Authenticate": "Bearer"})(scope, receive, send)


def _credentials(header: str) -> bytes:
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def listen(host: str, port: int, token: str | None) -> socket.socket:
    """Take the address of a server before its model loads; connections wait until it answers.

    Raises:
        UserError: the address is in use or not one of this machine's, or can be reached from
            others and there is no token.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise UserError(f"task.host={host} is no address of this machine.") from None
    if token is None and not ipaddress.ip_address(address[0]).is_loopback:
        raise UserError(
            f"task.host={host} can be reached from other machines, so that a token is needed: set "
            "the environment variable RMEXP_TOKEN (or task.token=TOKEN)."
        )
    found = socket.socket(family, kind, protocol)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
        found.listen()
    except OSError as error:
        found.close()
        known = {errno.EADDRINUSE: "in use", errno.EACCES: "reserved for the system's users"}
        reason = known.get(error.errno or 0, f"not available ({error.strerror})")
        raise UserError(
            f"task.port={port} of {host} is {reason}: choose another, or task.port=0 for a free "
            "one."
        ) from None
    return found
