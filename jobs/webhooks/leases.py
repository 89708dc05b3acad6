"""What a worker writes: leases of endpoints, and what came of its attempts. Each function is one transaction.

A worker delivers only to endpoints whose lease it has. All times of leases are the database's, because the clocks of
two machines differ.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import DateTimeField, ExpressionWrapper, Q, Window
from django.db.models.functions import Now, RowNumber
from django.utils import timezone
from ulid import ULID

from jobs.webhooks import signing
from jobs.webhooks.models import Attempt, BlockedJob, DeliveryWorker, Endpoint, EndpointSecret, Redelivery
from tenants.callers import Caller

# Longer than an attempt, so that another worker takes an endpoint only when no request of the last one is under way.
LEASE_SECONDS = 20.0
KEPT_ATTEMPTS = 1_000  # of an endpoint
REDELIVERIES_AT_ONCE = 100  # of an endpoint
KEPT_FOR = timedelta(days=7)


class SigningKey(NamedTuple):
    key: bytes
    expires_at: float  # Unix time; infinite where it does not expire


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """An endpoint as it is configured at the moment."""

    pk: int
    caller: Caller
    url: str
    event_types: tuple[str, ...]
    keys: tuple[SigningKey, ...]
    problem: str  # why nothing can be delivered; empty where it can


class BlockedRow(NamedTuple):
    """A row of BlockedJob; times are Unix times."""

    job: str
    next_seq: int
    attempts: int
    next_attempt_at: float
    since: float


class Claim(NamedTuple):
    """The state of an endpoint at the moment when a worker took it."""

    position: int
    paused_until: float
    failing_since: float | None
    blocked: list[BlockedRow]


@dataclass(slots=True)
class Lease:
    """The endpoints of a worker, as the database has them."""

    configs: dict[int, EndpointConfig]
    claims: dict[int, Claim]  # of those that are new
    redeliveries: list[tuple[int, int, str, int]]  # the oldest of each endpoint: id, endpoint, job, seq
    surplus: int  # how many the worker is to give back, because others have fewer
    disabled: int  # endpoints that are disabled, of all workers


@dataclass(slots=True)
class Change:
    """What a worker has to write about one endpoint."""

    endpoint: int
    fields: dict[str, Any] = field(default_factory=dict)  # columns of the endpoint
    blocked: dict[str, BlockedRow | None] = field(default_factory=dict)  # by job; None where it is blocked no more
    attempts: list[Attempt] = field(default_factory=list)
    redelivered: list[int] = field(default_factory=list)  # ids of Redelivery


def refresh(worker: str, held: set[int], renew: bool) -> Lease:
    """Renews the leases of ``worker`` if ``renew``, and takes more endpoints, up to its share.

    ``held`` are the endpoints whose state it has.
    """
    if renew:
        _renew(worker)
    deliverable = dict(Endpoint.objects.deliverable().values_list("pk", "lease_owner"))
    seen = DeliveryWorker.objects.filter(seen_at__gt=_later(-LEASE_SECONDS))
    share = math.ceil(len(deliverable) / max(1, seen.count()))
    mine = {pk for pk, owner in deliverable.items() if owner == worker}
    if renew and len(mine) < share:
        mine |= _take(worker, share - len(mine), held)
    configs = _configs(mine)
    return Lease(
        configs=configs,
        claims={pk: claim for pk, claim in _claims(mine - held).items() if pk in configs},
        redeliveries=_redeliveries(mine),
        surplus=max(0, len(mine) - share),
        disabled=Endpoint.objects.filter(is_enabled=False).count(),
    )


def record(worker: str, changes: list[Change]) -> set[int]:
    """Writes ``changes`` of the endpoints that ``worker`` still has. Returns the ids of the others."""
    with transaction.atomic():
        wanted = Endpoint.objects.filter(pk__in=[change.endpoint for change in changes], lease_owner=worker)
        mine = set(wanted.select_for_update().order_by("pk").values_list("pk", flat=True))
        own = [change for change in changes if change.endpoint in mine]
        for change in own:
            if change.fields:
                Endpoint.objects.filter(pk=change.endpoint).update(**change.fields)
        _write_blocked(own)
        Attempt.objects.bulk_create([attempt for change in own for attempt in change.attempts])
        if redelivered := [pk for change in own for pk in change.redelivered]:
            Redelivery.objects.filter(pk__in=redelivered).delete()
    return {change.endpoint for change in changes} - mine


def release(worker: str, endpoints: set[int]) -> None:
    """Gives endpoints back, so that other workers need not wait for the end of their lease."""
    Endpoint.objects.filter(pk__in=endpoints, lease_owner=worker).update(lease_owner="", lease_until=None)


def leave(worker: str) -> None:
    """The worker ends."""
    Endpoint.objects.filter(lease_owner=worker).update(lease_owner="", lease_until=None)
    DeliveryWorker.objects.filter(pk=worker).delete()


def trim_attempts(endpoint: int) -> None:
    """Removes what is no longer kept of an endpoint's attempts."""
    attempts = Attempt.objects.filter(endpoint=endpoint)
    newest = attempts.order_by("-pk").values_list("pk", flat=True)
    oldest_kept = newest[KEPT_ATTEMPTS - 1 : KEPT_ATTEMPTS].first()
    gone = Q(at__lt=timezone.now() - KEPT_FOR)
    if oldest_kept is not None:
        gone |= Q(pk__lt=oldest_kept)
    attempts.filter(gone).delete()


def encrypt_secrets_again() -> None:
    """With the current key, so that one that was replaced need not stay among the fallbacks."""
    for row in EndpointSecret.objects.all():
        try:
            encrypted = signing.encrypt_again(row.encrypted)
        except signing.SecretUnreadable:
            continue  # its endpoint's delivery says so
        if encrypted != row.encrypted:
            EndpointSecret.objects.filter(pk=row.pk, encrypted=row.encrypted).update(encrypted=encrypted)


def _later(seconds: float) -> Any:
    """The database's time, plus ``seconds``."""
    return ExpressionWrapper(Now() + timedelta(seconds=seconds), output_field=DateTimeField())


def _renew(worker: str) -> None:
    with transaction.atomic():
        DeliveryWorker.objects.update_or_create(pk=worker, defaults={"seen_at": Now()})
        DeliveryWorker.objects.filter(seen_at__lt=_later(-10 * LEASE_SECONDS)).delete()
        Endpoint.objects.filter(lease_owner=worker).update(lease_until=_later(LEASE_SECONDS))


def _take(worker: str, number: int, held: set[int]) -> set[int]:
    """Takes up to ``number`` endpoints that no worker has, in random order so that workers do not want the same.

    Not those in ``held``: this worker has lost them, and what it knows of them is out of date.
    """
    free = Endpoint.objects.deliverable().filter(
        Q(lease_owner="") | Q(lease_until=None) | Q(lease_until__lt=Now()), ~Q(lease_owner=worker), ~Q(pk__in=held)
    )
    found = list(free.values_list("pk", flat=True))
    chosen = random.sample(found, min(number, len(found)))
    if not chosen:
        return set()
    with transaction.atomic():
        rows = free.filter(pk__in=chosen).order_by()
        if connection.features.has_select_for_update_skip_locked:
            rows = rows.select_for_update(skip_locked=True, of=("self",))
        taken = set(rows.values_list("pk", flat=True))
        Endpoint.objects.filter(pk__in=taken).update(lease_owner=worker, lease_until=_later(LEASE_SECONDS))
    return taken


def _configs(endpoints: set[int]) -> dict[int, EndpointConfig]:
    rows = Endpoint.objects.deliverable().filter(pk__in=endpoints).select_related("tenant").prefetch_related("secrets")
    return {row.pk: config_of(row) for row in rows}


def config_of(endpoint: Endpoint) -> EndpointConfig:
    """Of an endpoint with its tenant and its secrets."""
    tenant = endpoint.tenant
    keys: list[SigningKey] = []
    problem = ""
    for secret in endpoint.secrets.all():
        expires_at = secret.expires_at.timestamp() if secret.expires_at else math.inf
        try:
            keys.append(SigningKey(signing.signing_key(signing.decrypt(secret.encrypted)), expires_at))
        except signing.SecretUnreadable as error:
            problem = str(error)
    return EndpointConfig(
        endpoint.pk,
        Caller(tenant.pk, tenant.slug, tenant.storage_prefix, None),
        endpoint.url,
        tuple(endpoint.event_types),
        tuple(keys),
        problem if not keys else "",
    )


def _claims(endpoints: set[int]) -> dict[int, Claim]:
    if not endpoints:
        return {}
    rows = Endpoint.objects.filter(pk__in=endpoints)
    claims = {
        row.pk: Claim(
            row.position,
            row.paused_until.timestamp() if row.paused_until else 0.0,
            row.failing_since.timestamp() if row.failing_since else None,
            [],
        )
        for row in rows
    }
    for each in BlockedJob.objects.filter(endpoint__in=claims):
        claims[each.endpoint_id].blocked.append(
            BlockedRow(
                each.job.hex, each.next_seq, each.attempts, each.next_attempt_at.timestamp(), each.since.timestamp()
            )
        )
    return claims


def _redeliveries(endpoints: set[int]) -> list[tuple[int, int, str, int]]:
    place = Window(RowNumber(), partition_by="endpoint", order_by="pk")
    rows = Redelivery.objects.filter(endpoint__in=endpoints).annotate(place=place)
    oldest = rows.filter(place__lte=REDELIVERIES_AT_ONCE).order_by("place", "pk")
    return [(row.pk, row.endpoint_id, row.job.hex, row.seq) for row in oldest]


def _write_blocked(changes: list[Change]) -> None:
    kept = []
    for change in changes:
        if gone := [job for job, row in change.blocked.items() if row is None]:
            BlockedJob.objects.filter(endpoint=change.endpoint, job__in=map(ULID.from_hex, gone)).delete()
        kept += [
            BlockedJob(
                endpoint_id=change.endpoint,
                job=ULID.from_hex(row.job),
                next_seq=row.next_seq,
                attempts=row.attempts,
                next_attempt_at=moment(row.next_attempt_at),
                since=moment(row.since),
            )
            for row in change.blocked.values()
            if row is not None
        ]
    BlockedJob.objects.bulk_create(
        kept,
        update_conflicts=True,
        unique_fields=["endpoint", "job"],
        update_fields=["next_seq", "attempts", "next_attempt_at", "since"],
    )


def moment(unix_time: float) -> datetime:
    return datetime.fromtimestamp(unix_time, UTC)
