"""Django's pages (console, docs, landing page) behind bounds, so that none of them holds up the API.

Pages run in threads. Before a thread is taken the body of the request is read, with a bound and a deadline; then so
many pages run at a time and the others wait. A page whose thread takes too long is answered with 503; its thread keeps
its place until it ends. A page that waits for news takes none meanwhile (``jobs_gateway.page_waits``).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.core.handlers.asgi import ASGIHandler
from django.db import DatabaseError, InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.loader import get_template, render_to_string
from django.views import defaults
from rest_framework.exceptions import APIException
from whitenoise.middleware import WhiteNoiseMiddleware

from jobs.api.errors import RETRY_AFTER_SECONDS, Unavailable, problem_of
from jobs.api.request import GatewayRequest, Message, Receive, Scope, Send, has_body, read_body
from jobs.database.readers import ping
from jobs_gateway.middleware import ASGIApp
from jobs_gateway.page_waits import PageWaits

# Pages that run at a time in one worker.
MAX_PAGES = 4
# Password checks that run at a time in one worker: each takes half a second of a core.
MAX_SIGN_INS = 1
# Pages that waited and run again, to see whether there is news: a few milliseconds each.
MAX_RECHECKS = 1
# Pages or sign-ins that wait for their turn, and how long.
MAX_WAITING = 64
MAX_WAIT_SECONDS = 10.0
# How long a page may take.
PAGE_SECONDS = 60.0
# Responses that are sent without keeping a page's place; each is in memory until its reader has it.
MAX_SENDING = 64
# A reader that takes nothing for so long is cut off.
SEND_SECONDS = 30.0
# Bytes of bodies that are being read or held, all callers together.
MAX_BODY_BYTES = 64 * 2**20

LOGIN_PATH = "/admin/login/"

# Headings of error pages; their policy lets them load the gateway's style sheet and nothing else.
ERROR_TITLES = {
    408: "The form did not arrive",
    413: "The form is too large",
    429: "Too many attempts",
    503: "The console is not available right now",
}
ERROR_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PageHandler(ASGIHandler):
    """Django's own, with the gateway's request."""

    request_class = GatewayRequest


class Busy(APIException):
    """Too many callers are waiting."""

    status_code = 503
    default_code = "UNAVAILABLE"
    default_detail = "The gateway is busy with other pages. Try again in a few seconds."
    wait = 1


class TooManyBodies(Busy):
    default_detail = "The gateway is busy with other forms. Try again in a few seconds."


class Limiter:
    """So many at a time; others wait in order, a bounded number of them for a bounded time."""

    def __init__(self, size: int) -> None:
        self._places = asyncio.Semaphore(size)
        self._waiting = 0

    async def acquire(self) -> None:
        """Raises Busy."""
        if self._waiting >= MAX_WAITING:
            raise Busy
        self._waiting += 1
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise Busy from None
        finally:
            self._waiting -= 1

    def release(self) -> None:
        self._places.release()


class Pages:
    """The ASGI application of all pages."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler
        self.pages = Limiter(MAX_PAGES)
        self.sign_ins = Limiter(MAX_SIGN_INS)
        self.waits = PageWaits(partial(self._page, Limiter(MAX_RECHECKS)))
        self.body_bytes = 0
        self.sending = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if has_body(scope):
                receive = replay(await self._body(receive), receive)
            is_sign_in = scope["path"] == LOGIN_PATH and scope["method"] == "POST"
            page = partial(self._page, self.sign_ins if is_sign_in else self.pages)
            if seconds := self.waits.granted_seconds(scope):
                await self.waits.answer(page, scope, receive, send, seconds)
            else:
                await page(scope, receive, send)
        except (APIException, RequestDataTooBig) as error:
            await send_refusal(error, scope, send)

    async def _page(self, limiter: Limiter, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs a page in its turn. Raises Busy, and Unavailable without a database or after ``PAGE_SECONDS``."""
        if scope["path"].startswith("/admin/"):
            await require_database()
        await limiter.acquire()
        page = asyncio.create_task(self._run(scope, receive, send, limiter.release))
        # Not cancelled when it is late: a thread cannot be stopped, and keeps its connection and its place.
        done, _ = await asyncio.wait({page}, timeout=PAGE_SECONDS)
        if done:
            page.result()
        elif not scope["gateway"]["status"]:
            raise Unavailable

    async def _body(self, receive: Receive) -> bytes:
        """Raises BodyTimeout, IncompleteBody, RequestDataTooBig, TooManyBodies."""
        largest = 2**20
        if self.body_bytes + largest > MAX_BODY_BYTES:
            raise TooManyBodies
        self.body_bytes += largest
        try:
            body = await read_body(receive)
        finally:
            self.body_bytes -= largest
        if body is None:
            raise RequestDataTooBig
        return body

    async def _run(self, scope: Scope, receive: Receive, send: Send, release: Callable[[], None]) -> None:
        # A page of the console keeps its connection to the database until it is sent, so it keeps its place too.
        is_public = not scope["path"].startswith("/admin/")
        has_place, is_cut = True, False

        async def send_page(message: Message) -> None:
            nonlocal has_place, is_cut
            if is_cut:
                return
            is_start = message["type"] == "http.response.start"
            if is_start and is_public and has_place and self.sending < MAX_SENDING:
                # The thread is done: a slow reader keeps nobody's place.
                has_place = False
                self.sending += 1
                release()
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await send(message)
            except TimeoutError:
                is_cut = True  # Django goes on, and gives back what the page has open

        try:
            await self.handler(scope, receive, send_page)
        finally:
            if has_place:
                release()
            else:
                self.sending -= 1


async def require_database() -> None:
    """Raises Unavailable where the database does not answer: a thread would wait for it without end."""
    try:
        async with asyncio.timeout(settings.DATABASE_DEADLINE_SECONDS):
            await ping(settings.API_DATABASE)
    except (TimeoutError, DatabaseError, InterfaceError):
        raise Unavailable from None


def replay(body: bytes, receive: Receive) -> Receive:
    """``receive`` of a request whose body has been read already."""
    is_sent = False

    async def receive_body() -> Message:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_body


def make_pages() -> ASGIApp:
    get_template("error.html")  # read from the disk now, not while the event loop refuses a request
    return Pages(PageHandler())


async def send_refusal(error: Exception, scope: Scope, send: Send) -> None:
    accept = b",".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1")
    response = refusal(error, wants_page(scope["path"], accept))
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.items()]
    body = response.content
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def wants_page(path: str, accept: str) -> bool:
    """Whether a browser opens a page of the console, and shows the response to a person."""
    return path.startswith("/admin/") and "text/html" in accept


class StaticFilesMiddleware(WhiteNoiseMiddleware):
    """WhiteNoise's, whose files are sent as a whole: a stream that is read in a thread is not for an event loop."""

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = WhiteNoiseMiddleware.serve(static_file, request)
        if not response.streaming:
            return response
        whole = HttpResponse(b"".join(response), status=response.status_code, headers=dict(response.items()))
        response.close()
        return whole


class ErrorPageMiddleware:
    """Answers what views raise for the API as a page, or as text."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, APIException):
            return None
        return refusal(error, wants_page(request.path, request.headers.get("Accept", "")))


def refusal(error: Exception, as_page: bool) -> HttpResponse:
    """The API's answer to ``error``, as text or as a page for people."""
    problem = problem_of(error)
    headers = {**problem.headers, "Cache-Control": "no-store"}
    return _error_response(problem.status, problem.detail, headers, as_page)


def _error_response(status: int, detail: str, headers: dict[str, str], as_page: bool) -> HttpResponse:
    if not as_page:
        return HttpResponse(f"{detail}\n", "text/plain; charset=utf-8", status, headers=headers)
    page = render_to_string("error.html", {"status": status, "title": ERROR_TITLES.get(status, ""), "detail": detail})
    # Some of these responses do not pass through Django's middleware.
    return HttpResponse(page, status=status, headers={**headers, "Content-Security-Policy": ERROR_POLICY})


def server_error(request: HttpRequest) -> HttpResponse:
    """503 while the database is down, for that passes by itself; 500 for any other error."""
    if not isinstance(sys.exception(), (OperationalError, InterfaceError)):
        return defaults.server_error(request)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS), "Cache-Control": "no-store"}
    detail = "The job store cannot be reached right now. Try again in a few seconds."
    return _error_response(503, detail, headers, wants_page(request.path, request.headers.get("Accept", "")))
