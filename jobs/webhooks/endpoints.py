"""Changes of endpoints, as the commands and the console make them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from ipaddress import ip_address
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from ulid import ULID

from jobs.models import JobCounts
from jobs.webhooks import signing
from jobs.webhooks.addresses import ForbiddenAddress, check_address
from jobs.webhooks.answer import Answer
from jobs.webhooks.attempts import attempt_of
from jobs.webhooks.leases import config_of
from jobs.webhooks.models import Attempt, BlockedJob, Endpoint, EndpointSecret, Outcome, Redelivery
from jobs.webhooks.payload import TEST_TYPE, payload_of_test
from jobs.webhooks.signing import signature_headers
from tenants.models import Tenant

ENDPOINTS_PER_TENANT = 5
# How long the secret from before a rotation is in force beside the new one.
ROTATION_OVERLAP = timedelta(hours=24)


def create(tenant: Tenant, url: str, event_types: Iterable[str] = ()) -> tuple[Endpoint, str]:
    """A new endpoint, which gets the events from now on, and its secret. Raises ValidationError."""
    check_url(url)
    types = sorted(set(event_types))
    check_event_types(types)
    secret = signing.new_secret()
    with transaction.atomic():
        Tenant.objects.select_for_update().get(pk=tenant.pk)
        if tenant.webhook_endpoints.count() >= ENDPOINTS_PER_TENANT:
            raise ValidationError(f"Tenant {tenant.slug} has {ENDPOINTS_PER_TENANT} endpoints, the most there may be.")
        endpoint = Endpoint.objects.create(tenant=tenant, url=url, event_types=types, position=_newest_position(tenant))
        EndpointSecret.objects.create(endpoint=endpoint, encrypted=signing.encrypt(secret))
    return endpoint, secret


def check_url(url: str) -> None:
    """Raises ValidationError for a URL that nothing could be sent to, whatever its name's address is."""
    problem = _problem_of_url(url)
    if problem:
        raise ValidationError(f"“{url}” cannot be used: {problem}")


def check_event_types(event_types: Iterable[str]) -> None:
    """Raises ValidationError."""
    for event_type in event_types:
        if not re.fullmatch(r"[^\x00]{1,50}", event_type):
            raise ValidationError("An event type has 1 to 50 characters, such as succeeded.")


def rotate_secret(endpoint: Endpoint) -> str:
    """A new secret. The others are in force for ``ROTATION_OVERLAP`` more, unless they expire before."""
    secret = signing.new_secret()
    until = timezone.now() + ROTATION_OVERLAP
    with transaction.atomic():
        endpoint.secrets.filter(expires_at__lt=timezone.now()).delete()
        endpoint.secrets.filter(expires_at=None).update(expires_at=until)
        EndpointSecret.objects.create(endpoint=endpoint, encrypted=signing.encrypt(secret))
    return secret


def enable(endpoint: Endpoint, *, from_now: bool) -> None:
    """Delivers again: from where it was, the blocked jobs at once, or ``from_now`` on only what happens next.

    With ``from_now`` nobody may be delivering to it: it must have been disabled.
    """
    with transaction.atomic():
        row = Endpoint.objects.select_for_update().get(pk=endpoint.pk)
        if row.is_enabled:
            return
        columns = {"is_enabled": True, "disabled_reason": "", "failing_since": None, "paused_until": None}
        if from_now:
            BlockedJob.objects.filter(endpoint=row).delete()
            Redelivery.objects.filter(endpoint=row).delete()
            columns["position"] = _newest_position(row.tenant)
        else:
            BlockedJob.objects.filter(endpoint=row).update(attempts=0, next_attempt_at=timezone.now())
        # The worker that delivered before has given it back, or its changes are refused from now on.
        Endpoint.objects.filter(pk=row.pk).update(**columns, lease_owner="", lease_until=None)
    endpoint.refresh_from_db()


def disable(endpoint: Endpoint, reason: str) -> None:
    """Delivers no more. Events that happen meanwhile are delivered when it is enabled again."""
    Endpoint.objects.filter(pk=endpoint.pk).update(is_enabled=False, disabled_reason=reason)
    endpoint.refresh_from_db()


def delete(endpoint: Endpoint) -> None:
    """Deletes it with its secrets, its log and what it waits with."""
    with transaction.atomic():
        # First, so that no worker adds to its log between the removal of that and of the endpoint.
        Endpoint.objects.select_for_update().filter(pk=endpoint.pk).first()
        endpoint.delete()


def redeliver(endpoint: Endpoint, job: ULID, seq: int) -> None:
    """Has a worker send one event again."""
    Redelivery.objects.get_or_create(endpoint=endpoint, job=job, seq=seq)


def redeliver_failed(endpoint: Endpoint, since: datetime) -> int:
    """Has a worker send what failed since then and was not delivered later. Returns the number of events.

    As far as the log goes: the last 1,000 attempts of 7 days.
    """
    attempts = Attempt.objects.filter(endpoint=endpoint, at__gte=since)
    state: dict[tuple[ULID, int], str] = {}
    for job, seq, outcome in attempts.order_by("pk").values_list("job", "seq", "outcome"):
        if job is not None and seq is not None:
            state[job, seq] = outcome
    failed = [event for event, outcome in state.items() if outcome != Outcome.DELIVERED]
    Redelivery.objects.bulk_create(
        (Redelivery(endpoint=endpoint, job=job, seq=seq) for job, seq in failed), ignore_conflicts=True
    )
    return len(failed)


def send_test(endpoint: Endpoint) -> Attempt:
    """Sends a test event at once, from this process, whether or not the endpoint is enabled. Takes up to 16 seconds."""
    # Here, because its HTTP client takes a quarter of a second to import, which workers of the API save at their start.
    from jobs.webhooks.sender import Sender

    config = config_of(Endpoint.objects.select_related("tenant").prefetch_related("secrets").get(pk=endpoint.pk))
    body, now = payload_of_test(), timezone.now()
    keys = [key.key for key in config.keys if key.expires_at > now.timestamp()]
    headers = signature_headers(keys, f"{TEST_TYPE}-{ULID()}", int(now.timestamp()), body)

    async def send() -> Answer:
        async with Sender() as sender:
            return await sender.post(config.url, body, headers)

    answer = asyncio.run(send()) if keys else Answer(None, "", config.problem, 0.0, None)
    outcome = Outcome.DELIVERED if answer.is_success else Outcome.FAILED
    attempt = attempt_of(endpoint.pk, answer, 0, outcome, None)
    attempt.save(force_insert=True)
    return attempt


def _newest_position(tenant: Tenant) -> int:
    return JobCounts.objects.for_tenant(tenant).values_list("last_position", flat=True).first() or 0


def _problem_of_url(url: str) -> str:
    if len(url) > 2000 or not url.isascii() or not url.isprintable() or " " in url:
        return "a URL has at most 2,000 characters, all of ASCII and without spaces."
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"{error}."
    if parts.scheme not in ("https", "http") or not host:
        return "write https:// and a host."
    if parts.username is not None or parts.password is not None:
        return "leave out the user name; the signature says who sends."
    if parts.fragment:
        return "leave out what follows the #."
    is_encrypted = parts.scheme == "https"
    if not is_encrypted and not settings.WEBHOOK_ALLOWED_NETWORKS:
        return "http is for the networks in WEBHOOK_ALLOWED_NETWORKS. Write https://."
    return _problem_of_literal(host, is_encrypted)


def _problem_of_literal(host: str, is_encrypted: bool) -> str:
    try:
        ip_address(host)
    except ValueError:  # a name, whose addresses are checked when a connection is made
        return ""
    try:
        check_address(host, settings.WEBHOOK_ALLOWED_NETWORKS, is_encrypted=is_encrypted)
    except ForbiddenAddress as error:
        return f"{host} is {error.strerror}. WEBHOOK_ALLOWED_NETWORKS names networks that are allowed too."
    return ""
