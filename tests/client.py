"""Django's test client, whose requests go through the gateway's whole ASGI application.

The API's statements run on Django's connection of the calling thread, so they see what a test has not committed.
"""

from __future__ import annotations

import asyncio
import re
import threading
import weakref
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import import_module
from time import perf_counter
from typing import Any
from urllib.parse import unquote_to_bytes

from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.core.signals import request_finished, request_started, setting_changed
from django.db import close_old_connections, connections
from django.http import HttpResponse
from django.test import Client as DjangoClient

from jobs.database import pipeline, readers
from jobs.database.prepared import compile_queries
from jobs_gateway import health
from jobs_gateway.application import is_of_api

BODY_PIECE_BYTES = 64 * 2**10


class ConnectionReader:
    """Reads on Django's own connection, inside its transaction; its statements are in ``connection.queries``."""

    def __init__(self, alias: str) -> None:
        self.connection: Any = connections[alias]

    def connect(self) -> None:
        """In the thread of the test; a test that may not use the database finds out when it reads."""
        if self.connection.connection is None:
            with suppress(RuntimeError):  # pytest-django's
                self.connection.ensure_connection()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def read(self, statement: Any, values: Mapping[str, Any]) -> list[Any]:
        connection = self.connection
        if connection.connection is None:
            await sync_to_async(connection.ensure_connection)()  # in the thread of the test
        params = statement.bound(values)
        began = perf_counter()
        try:
            with connection.wrap_database_errors:
                raw = connection.connection
                if connection.vendor == "sqlite":
                    return list(raw.execute(statement.sql, params).fetchall())
                return list(raw.wait(pipeline.read(raw, statement, params, values.get("tenant"))))
        finally:
            if connection.queries_logged:
                sql = with_literals(statement.sql, params)
                connection.queries_log.append({"sql": sql, "time": f"{perf_counter() - began:.3f}"})


def with_literals(sql: str | bytes, params: list[Any]) -> str:
    """A statement that can be explained: with its parameters in place of ``$1`` or ``?``."""

    def literal(value: Any) -> str:
        text = value.decode() if isinstance(value, bytes) else value
        return "NULL" if text is None else "'" + str(text).replace("'", "''") + "'"

    if isinstance(sql, bytes):
        return re.sub(r"\$(\d+)", lambda found: literal(params[int(found[1]) - 1]), sql.decode())
    following = iter(params)
    return re.sub(r"\?", lambda _: literal(next(following)), sql)


_of_this_caller: ContextVar[dict[str, ConnectionReader]] = ContextVar("readers")


class ConnectionReaders(MutableMapping[str, Any]):
    """``readers.readers`` in tests: those of the calling thread, whichever thread runs the event loop."""

    def __getitem__(self, alias: str) -> ConnectionReader:
        lent = _of_this_caller.get(None)
        if lent is None:  # the live server of a browser test, whose threads have connections of their own
            return ConnectionReader(alias)
        return lent[alias]

    def __setitem__(self, alias: str, reader: Any) -> None:
        raise TypeError("Tests read on Django's connections: ask in lent_connections().")

    def __delitem__(self, alias: str) -> None:
        raise TypeError("Django closes its connections itself.")

    def __iter__(self) -> Iterator[str]:
        return iter(_of_this_caller.get({}))

    def __len__(self) -> int:
        return len(_of_this_caller.get({}))


def lend_connections() -> None:
    """From now on the API reads on Django's connections in this process."""
    import_module(settings.ROOT_URLCONF)
    compile_queries()
    readers.readers = ConnectionReaders()  # type: ignore[assignment]


@contextmanager
def lent_connections() -> Iterator[None]:
    """Coroutines that are run inside read on the connections of this thread."""
    reset = _of_this_caller.set({alias: ConnectionReader(alias) for alias in readers.api_aliases()})
    try:
        yield
    finally:
        _of_this_caller.reset(reset)


def run(function: Any, *args: Any) -> Any:
    """What the coroutine function returns, called from a test that is not asynchronous itself."""
    with lent_connections():
        return async_to_sync(function)(*args)


_this_thread = threading.local()


def run_here(function: Any, *args: Any) -> Any:
    """As :func:`run`, on an event loop that the thread keeps: a new one for each request takes longer than the request.

    For coroutines that use no thread.
    """
    loop = getattr(_this_thread, "loop", None)
    if loop is None:
        loop = _this_thread.loop = asyncio.new_event_loop()
        weakref.finalize(threading.current_thread(), loop.close)
    with lent_connections():
        for reader in _of_this_caller.get().values():
            reader.connect()
        return loop.run_until_complete(function(*args))


class Client(DjangoClient):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.handler: Any = Handler(self.handler.enforce_csrf_checks)


class Handler:
    """Called by Django's client with a WSGI environment. Calls the ASGI application and collects its messages."""

    def __init__(self, enforce_csrf_checks: bool) -> None:
        self.enforce_csrf_checks = enforce_csrf_checks
        self._application: Any = None

    def __call__(self, environ: dict[str, Any]) -> HttpResponse:
        if self._application is None:
            self._application = make_application(self.enforce_csrf_checks)
        scope = scope_of(environ)
        body = environ["wsgi.input"].read()
        messages: list[Any] = []
        # A probe's task belongs to the event loop of one request here.
        health.PROBES[:] = [health.Probe(each._ask) for each in health.PROBES]
        if is_of_api(scope["path"]):
            run_here(ask, self._application, scope, body, messages)
        else:
            with django_connections_stay_open():
                run(ask, self._application, scope, body, messages)
        return response_of(messages, scope)


async def ask(application: Any, scope: dict[str, Any], body: bytes, messages: list[Any]) -> None:
    pieces = [body[start : start + BODY_PIECE_BYTES] for start in range(0, len(body) or 1, BODY_PIECE_BYTES)]
    incoming = iter(
        [
            {"type": "http.request", "body": piece, "more_body": number + 1 < len(pieces)}
            for number, piece in enumerate(pieces)
        ]
    )

    async def receive() -> Any:
        try:
            return next(incoming)
        except StopIteration:
            await never()

    async def send(message: Any) -> None:
        messages.append(message)

    await application(scope, receive, send)


async def never() -> None:
    await asyncio.get_running_loop().create_future()


def make_application(enforce_csrf_checks: bool) -> Any:
    from jobs_gateway import application

    async def pages(scope: Any, receive: Any, send: Any) -> None:
        await pages_of(enforce_csrf_checks)(scope, receive, send)

    return application.with_middleware(pages)


# By whether they check for CSRF. Making them looks at every static file, which takes longer than most tests.
_pages: dict[bool, Any] = {}
setting_changed.connect(lambda **_: _pages.clear(), weak=False)


def pages_of(enforce_csrf_checks: bool) -> Any:
    """The application of Django's pages, under the settings as they are now."""
    from jobs_gateway.pages import PageHandler

    class Pages(PageHandler):
        def create_request(self, scope: Any, body_file: Any) -> Any:
            request, error = super().create_request(scope, body_file)
            if request is not None:
                vars(request)["_dont_enforce_csrf_checks"] = not enforce_csrf_checks
            return request, error

    if enforce_csrf_checks not in _pages:
        _pages[enforce_csrf_checks] = Pages()
    return _pages[enforce_csrf_checks]


@contextmanager
def django_connections_stay_open() -> Iterator[None]:
    """Django's handler closes connections after a request, and with them the transaction of a test."""
    for each in (request_started, request_finished):
        each.disconnect(close_old_connections)
    try:
        yield
    finally:
        for each in (request_started, request_finished):
            each.connect(close_old_connections)


def scope_of(environ: Mapping[str, Any]) -> dict[str, Any]:
    headers = []
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            headers.append((name[5:].lower().replace("_", "-"), value))
        elif name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value != "":
            headers.append((name.lower().replace("_", "-"), value))
    if not any(name == "host" for name, _ in headers):
        headers.append(("host", environ["SERVER_NAME"]))
    if environ["REQUEST_METHOD"] in ("GET", "HEAD") and environ.get("CONTENT_LENGTH") in ("", "0", 0, None):
        headers = [each for each in headers if each[0] not in ("content-length", "content-type") or each[1] != "0"]
    path = environ["PATH_INFO"]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": environ["REQUEST_METHOD"],
        "scheme": environ["wsgi.url_scheme"],
        # Django's client writes bytes as latin-1, as WSGI has them.
        "path": path.encode("latin-1").decode("utf-8", "replace"),
        "raw_path": unquote_to_bytes(path),
        "query_string": str(environ["QUERY_STRING"]).encode("latin-1", "replace"),
        "root_path": "",
        "headers": [(name.encode("latin-1"), str(value).encode("latin-1", "replace")) for name, value in headers],
        "client": (environ.get("REMOTE_ADDR", ""), 40_000),
        "server": (environ["SERVER_NAME"], int(environ["SERVER_PORT"])),
    }


def header_name(name: bytes) -> str:
    """As the tests write it: ASGI has names in lower case."""
    return {b"x-request-id": "X-Request-ID", b"etag": "ETag", b"www-authenticate": "WWW-Authenticate"}.get(
        name, name.decode("latin-1").title()
    )


def response_of(messages: list[Any], scope: dict[str, Any]) -> HttpResponse:
    start, *rest = messages
    response = HttpResponse(b"".join(each.get("body", b"") for each in rest), status=start["status"])
    del response.headers["Content-Type"]
    for name, value in start["headers"]:
        text = value.decode("latin-1")
        if name.lower() == b"set-cookie":  # Django capitalizes it
            response.cookies.load(text)
        else:
            response.headers[header_name(name)] = text
    if "Location" in response.headers:
        response.url = response.headers["Location"]  # type: ignore[attr-defined]  # as Django's redirects have it
    response.wsgi_request = scope["gateway"]["request"]  # type: ignore[attr-defined]
    return response


# --- Credentials without a request ---


def verified(credential: str) -> Any:
    """The caller of a token, as the API verifies it; None where it is rejected."""
    from jobs.database.credentials import CREDENTIALS
    from tenants.authentication import verify_credential
    from tenants.callers import CredentialRejected

    try:
        return run(verify_credential, f"Bearer {credential}", CREDENTIALS)
    except CredentialRejected:
        return None
