"""The commands of webhooks: their options and their output, and the process that delivers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from datetime import timedelta
from io import StringIO
from ipaddress import ip_network
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connections
from django.utils import timezone
from standardwebhooks.webhooks import Webhook

from jobs.ingest import ledger
from jobs.models import AuditEntry
from jobs.webhooks import endpoints, signing
from jobs.webhooks.models import Attempt, BlockedJob, Endpoint
from tests.gateway import database_of_this_test
from tests.leak_checks import watch
from tests.receivers import answering, receiving, until

ROOT = Path(__file__).resolve().parent.parent
URL = "https://receiver.example/hook"


@pytest.fixture(autouse=True)
def loopback_is_allowed(settings):
    settings.WEBHOOK_ALLOWED_NETWORKS = [ip_network("127.0.0.0/8")]


def run(command, *arguments):
    """Standard output and standard error of ``manage.py command …``, as lines."""
    out, err = StringIO(), StringIO()
    call_command(command, *map(str, arguments), stdout=out, stderr=err)
    return out.getvalue().splitlines(), err.getvalue().splitlines()


def test_create_webhook_prints_the_secret_alone_as_the_last_line(acme):
    out, err = run("create_webhook", "acme", URL, "--event-type", "succeeded", "--event-type", "failed")
    endpoint = Endpoint.objects.get()
    assert len(out) == 1
    assert len(signing.signing_key(out[0])) == 32
    assert out[0].startswith("whsec_")
    assert (endpoint.tenant, endpoint.url, endpoint.event_types) == (acme, URL, ["failed", "succeeded"])
    assert err == [
        f"Webhook endpoint {endpoint.pk} of tenant acme. Its secret follows. Keep it: it cannot be shown again.",
        f"Next: manage.py test_webhook {endpoint.pk}",
    ]
    assert signing.decrypt(endpoint.secrets.get().encrypted) == out[0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["globex", URL], "No tenant “globex”. Create it with: manage.py create_tenant globex"),
        (["acme", "ftp://receiver.example/"], "No webhook was registered. “ftp://receiver.example/” cannot be used: "),
        (["acme", "https://169.254.169.254/"], "169.254.169.254 is not a public address."),
        (["acme", URL, "--event-type", "x" * 51], "An event type has 1 to 50 characters"),
        (["acme", URL, "--event-type", ""], "An event type has 1 to 50 characters"),
    ],
)
def test_create_webhook_says_what_is_wrong_and_registers_nothing(acme, arguments, reason):
    with pytest.raises(CommandError) as refusal:
        run("create_webhook", *arguments)
    assert reason in str(refusal.value)
    assert not Endpoint.objects.exists()


def test_a_tenant_has_five_endpoints_at_most(acme, globex):
    for _ in range(5):
        run("create_webhook", "acme", URL)
    with pytest.raises(CommandError, match="Tenant acme has 5 endpoints, the most there may be"):
        run("create_webhook", "acme", URL)
    run("create_webhook", "globex", URL)


def test_rotate_webhook_secret_leaves_the_old_one_for_a_day(acme):
    (old,), _ = run("create_webhook", "acme", URL)
    endpoint = Endpoint.objects.get()
    (new,), err = run("rotate_webhook_secret", endpoint.pk)
    assert new != old
    assert err == ["The new secret follows. Keep it: it cannot be shown again."]
    before, after = endpoint.secrets.order_by("pk")
    assert [signing.decrypt(each.encrypted) for each in (before, after)] == [old, new]
    assert abs(before.expires_at - timezone.now() - timedelta(hours=24)) < timedelta(minutes=1)
    assert after.expires_at is None
    run("rotate_webhook_secret", endpoint.pk)
    assert endpoint.secrets.count() == 3, "two rotations within a day: three are in force"
    endpoint.secrets.exclude(expires_at=None).update(expires_at=timezone.now() - timedelta(seconds=1))
    run("rotate_webhook_secret", endpoint.pk)
    assert endpoint.secrets.count() == 2


def test_list_webhooks_has_a_line_for_each(acme, globex):
    run("create_webhook", "globex", URL, "--event-type", "failed")
    run("create_webhook", "acme", URL)
    mine, theirs = Endpoint.objects.get(tenant=acme), Endpoint.objects.get(tenant=globex)
    endpoints.disable(theirs, "by hand")
    Endpoint.objects.filter(pk=mine.pk).update(failing_since=timezone.now())
    lines = [f"{mine.pk}\tacme\tfailing\tall\t{URL}", f"{theirs.pk}\tglobex\tdisabled\tfailed\t{URL}"]
    assert run("list_webhooks") == (lines, [])
    assert run("list_webhooks", "globex") == (lines[1:], [])
    with pytest.raises(CommandError, match="No tenant “nobody”"):
        run("list_webhooks", "nobody")


def test_delete_webhook_removes_all_that_is_its_own(acme):
    run("create_webhook", "acme", URL)
    endpoint = Endpoint.objects.get()
    assert run("delete_webhook", endpoint.pk) == ([f"Deleted webhook endpoint {endpoint.pk} of tenant acme."], [])
    assert not Endpoint.objects.exists()
    for command in ("delete_webhook", "rotate_webhook_secret", "test_webhook", "enable_webhook"):
        with pytest.raises(CommandError, match=f"No webhook endpoint {endpoint.pk}"):
            run(command, endpoint.pk)


def test_enable_webhook_goes_on_from_where_it_was_or_from_now(acme):
    run("create_webhook", "acme", URL)
    endpoint, job = Endpoint.objects.get(), ledger.open_job(acme, "MODEL_GENERATOR")
    ledger.append(job, "stage")
    assert run("enable_webhook", endpoint.pk)[0] == [
        f"Webhook endpoint {endpoint.pk} is enabled already; nothing changed."
    ]
    now = timezone.now()
    for from_now, position, blocked in ((False, 0, 1), (True, 1, 0)):
        endpoints.disable(endpoint, "by hand")
        BlockedJob.objects.update_or_create(
            endpoint=endpoint,
            job=job.pk,
            defaults={"next_seq": 1, "attempts": 5, "next_attempt_at": now + timedelta(days=1), "since": now},
        )
        run("enable_webhook", endpoint.pk, *(["--from-now"] if from_now else []))
        endpoint.refresh_from_db()
        assert (endpoint.is_enabled, endpoint.disabled_reason, endpoint.position) == (True, "", position)
        assert BlockedJob.objects.filter(attempts=0, next_attempt_at__lt=now + timedelta(hours=1)).count() == blocked


@pytest.mark.django_db(transaction=True)
def test_test_webhook_sends_a_signed_event_and_shows_the_answer(acme):
    async def scenario():
        async with receiving() as accepts, receiving(answering(500)) as refuses:
            secret, number = await asyncio.to_thread(created, accepts.url)
            out, _ = await asyncio.to_thread(closing, run, "test_webhook", number)
            assert out[0].startswith("The receiver accepted the event: status 204, in ")
            [received] = accepts.received
            verified = Webhook(secret).verify(received.body, received.headers)
            assert (verified["type"], verified["data"]) == ("webhook.test", {})
            _, number = await asyncio.to_thread(created, refuses.url)
            with pytest.raises(CommandError, match=r"did not accept the event: status 500\. noted"):
                await asyncio.to_thread(closing, run, "test_webhook", number)

    def created(url):
        (secret,), _ = closing(run, "create_webhook", "acme", url)
        return secret, closing(lambda: Endpoint.objects.get(url=url).pk)

    asyncio.run(scenario())
    assert list(Attempt.objects.order_by("pk").values_list("outcome", "status", "number", "event_type")) == [
        ("delivered", 204, 0, "webhook.test"),
        ("failed", 500, 0, "webhook.test"),
    ]


def closing(function, *args):
    try:
        return function(*args)
    finally:
        connections.close_all()


@pytest.mark.django_db(transaction=True)
def test_deliver_webhooks_delivers_until_it_is_stopped(acme, tmp_path):
    job = ledger.open_job(acme, "MODEL_GENERATOR")
    log = tmp_path / "log"
    environment = os.environ | {
        "DATABASE_URL": database_of_this_test(),
        "DATABASE_API_URL": "",
        "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        "DATA_DIR": str(tmp_path),
    }

    async def scenario():
        async with receiving() as receiver:
            await asyncio.to_thread(closing, endpoints.create, acme, receiver.url)
            await asyncio.to_thread(closing, ledger.append, job, "stage")
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "manage.py", "deliver_webhooks"],
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            try:
                await until(lambda: receiver.accepted)
            finally:
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, 60) == 0

    asyncio.run(scenario())
    text = log.read_text()
    watch.record("the log of a process", text)
    assert "Traceback" not in text
    endpoint = Endpoint.objects.get()
    assert (endpoint.position, endpoint.lease_owner) == (1, "")


def test_commands_that_change_an_endpoint_leave_an_audit_entry_without_its_url(acme):
    run("create_webhook", acme.slug, "https://hooks.example/?key=0secret0")
    endpoint = Endpoint.objects.get()
    run("rotate_webhook_secret", endpoint.pk)
    Endpoint.objects.update(is_enabled=False)
    run("enable_webhook", endpoint.pk, "--from-now")
    run("delete_webhook", endpoint.pk)
    entries = AuditEntry.objects.filter(tenant_slug=acme.slug).order_by("pk")
    assert list(entries.values_list("action", "command")) == [
        ("webhook_added", "python manage.py create_webhook acme"),
        ("webhook_changed", f"python manage.py rotate_webhook_secret {endpoint.pk}"),
        ("webhook_changed", f"python manage.py enable_webhook {endpoint.pk} --from-now"),
        ("webhook_removed", f"python manage.py delete_webhook {endpoint.pk}"),
    ]
    assert {entry.subject for entry in entries} == {f"webhook endpoint {endpoint.pk}"}
    assert all(entry.system_user for entry in entries)
