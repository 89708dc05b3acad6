"""Metrics of webhooks; none names a tenant or an endpoint."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

DELIVERIES = Counter(
    "gateway_webhook_deliveries", "Attempts to deliver an event to an endpoint, by outcome.", ["outcome"]
)
SECONDS = Histogram(
    "gateway_webhook_seconds",
    "Time that receivers took to answer, or until the attempt was over.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
)
LATENCY = Histogram(
    "gateway_webhook_latency_seconds",
    "From the time of an event, by its writer's clock, to its delivery by a first attempt.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 15, 60, 300, 3600),
)
LAG = Gauge(
    "gateway_webhook_lag_positions",
    "The newest position of each endpoint's tenant less the position that the endpoint was told up to, in all.",
    multiprocess_mode="livesum",
)
BLOCKED = Gauge(
    "gateway_webhook_blocked_jobs", "Jobs whose next event waits for another attempt.", multiprocess_mode="livesum"
)
OLDEST_WAITING = Gauge(
    "gateway_webhook_oldest_waiting_seconds",
    "How long the event waits that has waited longest for its delivery.",
    multiprocess_mode="livemax",
)
DISABLED = Gauge("gateway_webhook_disabled_endpoints", "Endpoints that are disabled.", multiprocess_mode="livemax")
