"""Refusals of requests, and the one form that all errors have."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

TYPES = {401: "authentication_error", 404: "not_found_error", 503: "overloaded_error"}
"""`type` of an error by its status, in OpenAI's words; other 4xx are invalid requests."""


class Refusal(HTTPException):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        sentence: what is wrong, where, and the fix.
        headers: of the answer.
    """

    def __init__(
        self, status: int, sentence: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, sentence, headers)


def error_response(
    status: int, sentence: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    # A lone surrogate of the request is quoted as its escape.
    sentence = sentence.encode("utf-8", "backslashreplace").decode("utf-8")
    error = {"message": sentence, "type": kind, "code": status}
    return JSONResponse({"error": error}, status, headers)


def install_error_form(app: FastAPI) -> None:
    """Let every error of the app have the form of `error_response`."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        sentence = error.detail
        if type(error) is not Refusal:
            sentence = f"{request.method} {request.url.path}: {sentence}; see /docs."
        return error_response(error.status_code, sentence, error.headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return error_response(422, explain_validation(error.errors()))

    async def failed(request: Request, error: Exception) -> JSONResponse:
        return error_response(500, f"The server failed: {type(error).__name__}.")

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, failed)


def explain_validation(errors: Sequence[Any]) -> str:
    """The first error of pydantic as a sentence that names the field: `top_n should be ...`."""
    first = errors[0]
    field = ""
    for part in first["loc"][1:]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    text = str(first["msg"]).removeprefix("Input ").removeprefix("Value error, ")
    if first["type"] == "missing":
        text = "is missing"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{field or 'The body'} {text[:1].lower()}{text[1:]}{more}."
