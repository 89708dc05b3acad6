"""``/metrics`` for Prometheus, on a port of its own, where ``METRICS_PORT`` names one.

Each package counts its own events. This module counts requests and serves all metrics. Worker processes share a folder
of counters, so each of them can answer for all.
"""

from __future__ import annotations

import logging
import os
import socket
from functools import cache
from pathlib import Path
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from django.conf import settings
from prometheus_client import CollectorRegistry, Histogram, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from jobs.api.request import Scope

logger = logging.getLogger(__name__)

REQUESTS = Histogram(
    "gateway_request_seconds",
    "Requests by route (its pattern, empty where there is none), and the time until the answer was ready.",
    ["route", "method", "status"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
_requests = cache(REQUESTS.labels)  # there are as many as routes and statuses


def count_request(scope: Scope, method: str, route: str, status: int, seconds: float) -> None:
    """2 µs. A stream lasts minutes and a waiting request waits: they are routes of their own."""
    followed_by = scope["gateway"]["followed_by"]
    _requests(f"{route} ({followed_by})" if followed_by else route, method, status).observe(seconds)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_port = True  # every worker listens, so that there is no gap when one ends, as in a reload


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called
        logger.debug(format, *args)


def forget_dead_workers() -> None:
    """Removes what workers that are no more were doing, such as holding streams open."""
    for path in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_live*.db"):
        pid = int(path.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid)
        except PermissionError:  # it lives, as another user
            continue


def serve() -> None:
    """Answers on ``METRICS_HOST``:``METRICS_PORT`` in a thread for as long as this process lives."""
    forget_dead_workers()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    _Server.address_family = socket.AF_INET6 if ":" in settings.METRICS_HOST else socket.AF_INET
    server = make_server(settings.METRICS_HOST, settings.METRICS_PORT, make_wsgi_app(registry), _Server, _Quiet)
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
