"""What answers which address, and the middleware around it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from django.conf import settings
from django.db import connections
from starlette.middleware.cors import CORSMiddleware

from jobs.api.following.places import places
from jobs.api.following.wakeups import wake_ups
from jobs.api.request import Message, Receive, Scope, Send
from jobs.api.views import api
from jobs.artifacts import signing
from jobs.artifacts.downloads import download
from jobs.database.prepared import compile_queries
from jobs.database.readers import close_readers, open_readers
from jobs.database.replica import monitor
from jobs_gateway.health import probes
from jobs_gateway.middleware import AccessLogMiddleware, ASGIApp, RequestIdMiddleware
from jobs_gateway.pages import make_pages
from jobs_gateway.worker import this_worker
from tenants.shared_cache import shared_cache


def is_of_api(path: str) -> bool:
    return path.startswith(("/v1/", "/job/")) or path in ("/v1", "/job")


class Router:
    """Hands a request to the API, the local pictures, the probes or Django's pages, by its path."""

    def __init__(self, api: ASGIApp, download: ASGIApp, pages: ASGIApp) -> None:
        self.api = api
        self.download = download
        self.pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if is_of_api(path):
            await self.api(scope, receive, send)
        elif path.startswith("/artifacts/"):
            await self.download(scope, receive, send)
        elif path in ("/livez", "/readyz"):
            await probes(scope, receive, send)
        else:
            await self.pages(scope, receive, send)


def allow_origins(app: ASGIApp) -> ASGIApp:
    """``app`` for browsers on ``CORS_ALLOWED_ORIGINS``, where there are any."""
    if not settings.CORS_ALLOWED_ORIGINS:
        return app
    allowed = CORSMiddleware(
        app,
        allow_origins=settings.CORS_ALLOWED_ORIGINS,
        allow_methods=settings.CORS_ALLOW_METHODS,
        allow_headers=settings.CORS_ALLOW_HEADERS,
        expose_headers=settings.CORS_EXPOSE_HEADERS,
        max_age=86_400,  # seconds
    )
    origins = {origin.encode() for origin in settings.CORS_ALLOWED_ORIGINS}
    is_any = b"*" in origins

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if any(name == b"origin" and (is_any or value in origins) for name, value in scope["headers"]):
            await allowed(scope, receive, send)
        else:
            # Starlette would list the exposed headers to any origin, and leave out Vary for requests without one: a
            # picture that a page has shown would come from the browser's cache, and could not be drawn to a canvas.
            await app(scope, receive, add_vary(send))

    return application


def add_vary(send: Send) -> Send:
    """``send`` that adds ``Vary: Origin``."""

    async def send_with_vary(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"vary", b"Origin")]
        await send(message)

    return send_with_vary


def with_middleware(pages: Any) -> ASGIApp:
    """What answers HTTP requests, with ``pages`` as the application of Django's pages."""
    import_module(settings.ROOT_URLCONF)  # which imports every view, and with it every query
    compile_queries()
    return AccessLogMiddleware(RequestIdMiddleware(Router(allow_origins(api), allow_origins(download), pages)))


def make_application() -> ASGIApp:
    """The whole gateway as one ASGI application. Its queries are compiled here, in the thread that imports it."""
    app = with_middleware(make_pages())
    signing.make_ready()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)
        elif scope["type"] == "lifespan":
            await lifespan(receive, send)

    return application


async def end_following() -> None:
    """Ends streams and waiting requests, once another worker can take their clients' places."""
    await places.leave()
    wake_ups.stop()


async def lifespan(receive: Receive, send: Send) -> None:
    """Connects to the databases before the server accepts requests, and closes the connections after the last."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await open_readers()
            if connections[settings.API_DATABASE].vendor == "postgresql":
                monitor.start()
            if worker := this_worker():
                worker.is_ready(on_stop=end_following)
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await monitor.close()
            await places.leave()
            await shared_cache.close()
            await close_readers()
            await send({"type": "lifespan.shutdown.complete"})
            return
