"""``/metrics`` for Prometheus, on a port of its own, where ``METRICS_PORT`` names one.

Each package counts its own events. This module counts requests and serves all metrics. Worker processes share a folder
of counters, so each of them can answer for all.
"""

from __future__ import annotations

import logging
import socket
from functools import cache
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from django.conf import settings
from prometheus_client import CollectorRegistry, Histogram, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

from jobs.api.request import Scope

logger = logging.getLogger(__name__)

REQUESTS = Histogram(
    "gateway_request_seconds",
    "Requests by route (its pattern, empty where there is none), and the time until the answer was ready.",
    ["route", "method", "status"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
_requests = cache(REQUESTS.labels)  # there are as many as routes and statuses


def count_request(_scope: Scope, method: str, route: str, status: int, seconds: float) -> None:
    """2 µs."""
    _requests(route, method, status).observe(seconds)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_port = True  # every worker listens, so that there is no gap when one ends, as in a reload


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called
        logger.debug(format, *args)


def serve() -> None:
    """Answers on ``METRICS_HOST``:``METRICS_PORT`` in a thread for as long as this process lives."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    _Server.address_family = socket.AF_INET6 if ":" in settings.METRICS_HOST else socket.AF_INET
    server = make_server(settings.METRICS_HOST, settings.METRICS_PORT, make_wsgi_app(registry), _Server, _Quiet)
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
