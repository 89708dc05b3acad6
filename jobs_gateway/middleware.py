"""ASGI middleware around every request: its id, its line in the access log, its place in the metrics."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from time import perf_counter

from django.conf import settings

from jobs.api.request import Message, Receive, Scope, Send
from jobs_gateway import logs, metrics
from jobs_gateway.refusals import record_refusal

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})


class AccessLogMiddleware:
    """One line in the log and one observation in the metrics for each request; the outermost, so it times everything.

    ``scope["gateway"]`` becomes what is known of the request: ``request_id``, ``request`` if there is one, ``status``,
    ``followed_by``: whether it is a "stream" or a "wait", and, of a page, ``waits_for``: the news that it waits for.
    The line is written after the response: 4 µs off the answer's path.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.observers: list[Callable[[Scope, str, str, int, float], None]] = []
        if settings.ACCESS_LOG:
            self.observers.append(logs.access_log())
        if settings.RECORD_REFUSALS:
            self.observers.append(record_refusal)
        if settings.METRICS_PORT:
            self.observers.append(metrics.count_request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        scope["gateway"] = state = {"request_id": None, "request": None, "status": 0, "followed_by": None}
        logs.current_request.set(state)  # each request has a task, and so a context, of its own
        try:
            await self.app(scope, receive, send)
        finally:
            seconds = perf_counter() - began
            method = scope["method"] if scope["method"] in METHODS else "other"  # what a caller makes up has no end
            route = logs.route_of(scope)
            for observe in self.observers:
                # Without a status the caller hung up before there was one; nginx's number for it.
                observe(scope, method, route, int(state["status"] or 499), seconds)
            # The request refers to the scope, its deadline to the task and so to this state: two cycles, which would
            # keep all that the request has made until the garbage collector comes.
            state["request"] = None


class RequestIdMiddleware:
    """``X-Request-ID`` on every response: the caller's own where it is sane, else a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if _SANE_REQUEST_ID.fullmatch(given) else os.urandom(16).hex().encode()
        state = scope["gateway"]
        state["request_id"] = request_id.decode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                state["status"] = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        await self.app(scope, receive, send_with_id)
