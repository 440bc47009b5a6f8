"""The web application: routes, page, limits and the token around one `RewardService`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from rmexp import __version__
from rmexp.serve.access import TokenCheck
from rmexp.serve.refusals import install_error_form
from rmexp.serve.response_headers import ResponseHeaders
from rmexp.serve.routes.llamafactory import llamafactory_routes
from rmexp.serve.routes.openrlhf import openrlhf_routes
from rmexp.serve.routes.own import own_routes
from rmexp.serve.routes.vllm import vllm_routes
from rmexp.serve.service import RewardService
from rmexp.serve.telemetry import RequestMetrics

PAGE = Path(__file__).with_name("page")
"""Static files; index.html is served at /, the others under /page/."""


def create_app(service: RewardService, token: str | None = None) -> FastAPI:
    """The application; its shutdown closes the service.

    Args:
        service: computes the rewards.
        token: that requests must have, see `TokenCheck`; None: none.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="rmexp",
        version=__version__,
        description=f"Rewards of {service.info.name}.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.limits = service.limits
    install_error_form(app)
    for routes in (own_routes, openrlhf_routes, vllm_routes, llamafactory_routes):
        app.include_router(routes(service))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False), name="page")
    if token is not None:
        app.add_middleware(TokenCheck, token=token)
    app.add_middleware(RequestMetrics, telemetry=service.telemetry)
    app.add_middleware(ResponseHeaders)
    return app
