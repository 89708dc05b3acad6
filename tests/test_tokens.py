"""Gateway tokens: their form, validity and cache, and the cost of a check."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import re
import time
from datetime import timedelta
from functools import partial
from unittest import mock

import pytest
from django.core import checks
from django.core.exceptions import ValidationError
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs.database import credentials, prepared
from tenants import callers, tokens
from tenants.callers import Caller, CredentialCache, CredentialRejected, VerifiedCredential
from tenants.last_used import last_used
from tenants.models import ApiToken, Tenant
from tests.client import run, verified

ACME = Caller(1, "acme", "tenants/acme/", None)


def row_of(token):
    return ApiToken.objects.get(prefix=token.split("_")[1])


def flipped(character):
    return "a" if character != "a" else "b"


def test_a_token_names_its_prefix_and_only_its_hash_is_stored(acme):
    token = tokens.issue(acme, label="build server")

    assert re.fullmatch(r"jgw_[a-z0-9]{12}_[A-Za-z0-9_-]{43}", token)
    row = row_of(token)
    assert (row.tenant, row.label, row.last_used_at, row.expires_at, row.revoked_at) == (
        acme,
        "build server",
        None,
        None,
        None,
    )
    assert row.token_hash == hashlib.sha256(token.encode()).hexdigest()
    assert str(row) == f"jgw_{row.prefix}_…"
    secret = token.split("_", 2)[2]
    assert not any(secret in str(value) for value in vars(row).values())


def test_no_two_tokens_are_alike(acme):
    assert len({tokens.issue(acme) for _ in range(50)}) == 50


def test_a_label_that_does_not_fit_is_refused_before_anything_is_stored(acme):
    with pytest.raises(ValidationError):
        tokens.issue(acme, label="x" * 201)
    assert not ApiToken.objects.exists()


def test_a_token_stands_for_its_tenant(acme, acme_token):
    assert verified(acme_token) == Caller(acme.pk, "acme", "tenants/acme/", acme_token.split("_")[1])


def test_a_tenant_may_hold_several_tokens_so_that_they_rotate_with_overlap(acme, acme_token):
    new = tokens.issue(acme)
    assert verified(acme_token)
    assert verified(new)

    tokens.revoke(acme_token.split("_")[1])

    assert verified(acme_token) is None
    assert verified(new)


def test_an_altered_token_opens_nothing(acme_token):
    for place in range(len(acme_token)):
        altered = acme_token[:place] + flipped(acme_token[place]) + acme_token[place + 1 :]
        assert verified(altered) is None, altered


def test_the_prefix_of_one_token_with_the_secret_of_another_opens_nothing(acme, globex, acme_token):
    theirs = tokens.issue(globex)
    assert verified(acme_token[:17] + theirs[17:]) is None


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "jgw_",
        "jgw__",
        "jgw_abc_def",
        "jgw_ABCDEFGHIJKL_" + "a" * 43,
        "jgw_abcdefghijkl_" + "a" * 42,
        "jgw_abcdefghijkl_" + "a" * 44,
        "jgw_abcdefghijkl_" + "a" * 42 + "\0",
        "jgw_abcdefghijkl_" + "a" * 42 + "é",
        "jgw_abcdefghijk\0_" + "a" * 43,
        "jgw_abcdefghijk١_" + "a" * 43,
        "jgw_abcdefghijkl_" + "a" * 43 + "\n",
        "jgw_abcdefghijkl_" + "a" * 42 + "\ud800",
        "jgw_' OR 1=1 --_" + "a" * 43,
        "j" * 100_000,
    ],
)
def test_what_is_no_token_never_reaches_the_database(garbage, db, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert verified(garbage) is None


def test_an_unknown_prefix_costs_what_a_wrong_secret_costs(acme_token, django_assert_num_queries, monkeypatch):
    compared = []

    def watched(stored, given):
        compared.append((len(stored), len(given)))
        return real_compare(stored, given)

    real_compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", watched)
    for wrong in ("jgw_unknown00000" + acme_token[16:], acme_token[:-1] + flipped(acme_token[-1])):
        with django_assert_num_queries(1):
            assert verified(wrong) is None
    assert compared == [(64, 64), (64, 64)]


def test_a_verified_token_is_believed_without_a_statement(acme_token, settings, django_assert_num_queries):
    settings.TOKEN_CACHE_SECONDS = 5
    with django_assert_num_queries(1):
        first = verified(acme_token)
    with django_assert_num_queries(0):
        assert verified(acme_token) == first


def test_with_no_cache_every_use_asks_the_database(acme_token, settings, django_assert_num_queries):
    settings.TOKEN_CACHE_SECONDS = 0
    with django_assert_num_queries(3):
        assert all(verified(acme_token) for _ in range(3))


def test_a_failure_is_not_remembered(acme, acme_token, settings):
    settings.TOKEN_CACHE_SECONDS = 5
    Tenant.objects.filter(pk=acme.pk).update(is_active=False)
    assert verified(acme_token) is None
    Tenant.objects.filter(pk=acme.pk).update(is_active=True)
    assert verified(acme_token)


def test_a_token_revoked_here_is_refused_at_once(acme_token, settings):
    settings.TOKEN_CACHE_SECONDS = 5
    assert verified(acme_token)
    assert tokens.revoke(acme_token.split("_")[1]) is True
    assert verified(acme_token) is None


def test_revoking_again_changes_nothing(acme_token):
    prefix = acme_token.split("_")[1]
    tokens.revoke(prefix)
    revoked_at = row_of(acme_token).revoked_at
    assert tokens.revoke(prefix) is False
    assert row_of(acme_token).revoked_at == revoked_at


def test_a_prefix_that_no_token_has_cannot_be_revoked(db):
    with pytest.raises(ApiToken.DoesNotExist):
        tokens.revoke("unknown00000")


@pytest.mark.parametrize("change", ["token is saved as revoked", "tenant is deactivated", "token is deleted"])
def test_a_change_made_in_the_admin_counts_at_once(change, acme, acme_token, settings):
    settings.TOKEN_CACHE_SECONDS = 5
    assert verified(acme_token)
    token = row_of(acme_token)
    if change == "token is saved as revoked":
        token.revoked_at = timezone.now()
        token.save()
    elif change == "tenant is deactivated":
        acme.is_active = False
        acme.save()
    else:
        token.delete()
    assert verified(acme_token) is None


def test_a_token_revoked_by_another_process_is_rejected_when_its_cache_entry_expires(acme_token, settings, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(callers, "monotonic", lambda: now)
    assert verified(acme_token)
    ApiToken.objects.update(revoked_at=timezone.now())  # as another process would: nothing here hears of it
    assert verified(acme_token)
    monkeypatch.setattr(callers, "monotonic", lambda: now + settings.TOKEN_CACHE_SECONDS)
    assert verified(acme_token) is None


def test_no_setting_makes_a_credential_believed_for_more_than_five_seconds(acme_token, settings, monkeypatch):
    settings.TOKEN_CACHE_SECONDS = 3600
    assert verified(acme_token)
    ApiToken.objects.update(revoked_at=timezone.now())
    started = time.monotonic()
    monkeypatch.setattr(callers, "monotonic", lambda: started + 5)
    assert verified(acme_token) is None


def test_expiry_is_checked_on_every_use(acme, settings, monkeypatch):
    settings.TOKEN_CACHE_SECONDS = 5
    end = timezone.now() + timedelta(hours=1)
    token = tokens.issue(acme, expires_at=end)
    assert verified(token)
    monkeypatch.setattr(timezone, "now", lambda: end)
    monkeypatch.setattr(callers, "time", end.timestamp)
    assert verified(token) is None
    callers.credential_cache.clear()
    assert verified(token) is None


def test_what_was_revoked_while_it_was_looked_up_is_not_remembered(settings):
    settings.TOKEN_CACHE_SECONDS = 5
    cache, looked_up = CredentialCache(), []

    async def look_up(credential, digest):
        looked_up.append(credential)
        if len(looked_up) == 1:
            cache.clear()  # a console thread revokes the token, after its row has been read
        return VerifiedCredential(ACME)

    async def three_uses():
        for _ in range(3):
            await cache.caller("credential", look_up)

    asyncio.run(three_uses())
    assert looked_up == ["credential", "credential"]


def test_the_cache_is_bounded_and_holds_no_token(settings, monkeypatch):
    settings.TOKEN_CACHE_SECONDS = 5
    monkeypatch.setattr(callers, "MAX_CACHED_CREDENTIALS", 3)
    cache = CredentialCache()

    async def look_up(credential, digest):
        return VerifiedCredential(ACME)

    async def ten_credentials():
        for number in range(10):
            await cache.caller(f"credential-{number}", look_up)
            assert len(cache._cached) <= 3

    asyncio.run(ten_credentials())
    assert "credential-" not in repr(vars(cache))


@pytest.mark.parametrize("outcome", ["verified", "rejected"])
def test_a_hundred_requests_with_one_uncached_token_make_one_look_up(outcome, settings):
    settings.TOKEN_CACHE_SECONDS = 0
    cache, looked_up = CredentialCache(), []

    async def look_up(credential, digest):
        looked_up.append(credential)
        await asyncio.sleep(0.01)
        if outcome == "rejected":
            raise CredentialRejected("unknown")
        return VerifiedCredential(ACME)

    async def hundred():
        return await asyncio.gather(*(cache.caller("credential", look_up) for _ in range(100)), return_exceptions=True)

    answers = asyncio.run(hundred())
    assert looked_up == ["credential"]
    if outcome == "verified":
        assert answers == [ACME] * 100
    else:
        assert [each.reason for each in answers] == ["unknown"] * 100


def test_those_who_wait_for_a_look_up_that_fails_look_up_themselves():
    cache, attempts = CredentialCache(), []

    async def look_up(credential, digest):
        attempts.append(credential)
        await asyncio.sleep(0)
        if len(attempts) == 1:
            raise OSError("the database is down")
        return VerifiedCredential(ACME)

    async def ask_together():
        return await asyncio.gather(*(cache.caller("credential", look_up) for _ in range(3)), return_exceptions=True)

    first, *others = asyncio.run(ask_together())
    assert isinstance(first, OSError)
    assert others == [ACME, ACME]


def prefixes_of(*tenants):
    return {tokens.issue(tenant).split("_")[1]: tenant.pk for tenant in tenants}


async def find_together(look_ups, prefixes):
    rows = await asyncio.gather(*(look_ups.find(prefix) for prefix in prefixes))
    return [row and row.tenant_id for row in rows]


def test_tokens_that_come_together_share_statements(acme, globex):
    issued = prefixes_of(*[acme, globex] * 10)
    wanted = [*issued, "unknown00000", *list(issued)[:2]]  # two credentials may have one prefix
    with CaptureQueriesContext(connection) as captured:
        found = run(partial(find_together, credentials.TokenLookUps(), wanted))
    assert found == [issued.get(prefix) for prefix in wanted]
    assert len(captured) == math.ceil(len(wanted) / credentials.MAX_BATCH)


def test_tokens_that_cannot_be_looked_up_together_are_looked_up_alone(acme, globex, monkeypatch):
    issued = prefixes_of(acme, globex, acme)
    numbers = []

    async def read(statement, values, alias):
        numbers.append(len(values))
        if len(values) > 1:
            raise OperationalError("too many at once")
        return await prepared.read(statement, values, alias)

    monkeypatch.setattr(credentials, "read", read)
    assert run(partial(find_together, credentials.TokenLookUps(), issued)) == list(issued.values())
    assert numbers == [3, 1, 1, 1]
    monkeypatch.setattr(credentials, "read", mock.AsyncMock(side_effect=OperationalError("the database is down")))
    with pytest.raises(OperationalError):
        run(partial(find_together, credentials.TokenLookUps(), issued))


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_a_caller_that_hangs_up_takes_no_other_with_it(acme, globex, turns):
    issued = prefixes_of(acme, globex, acme)

    async def first_hangs_up():
        look_ups = credentials.TokenLookUps()
        first, *others = (asyncio.ensure_future(look_ups.find(prefix)) for prefix in issued)
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        return [row.tenant_id for row in await asyncio.gather(*others)]

    assert run(first_hangs_up) == list(issued.values())[1:]


@pytest.mark.parametrize(("seconds", "ids"), [(0, []), (5, []), (5.1, ["tenants.E001"]), (-1, ["tenants.E001"])])
def test_how_long_a_revoked_token_may_live_is_checked(seconds, ids, settings):
    settings.TOKEN_CACHE_SECONDS = seconds
    assert [message.id for message in checks.run_checks() if message.id == "tenants.E001"] == ids


@pytest.fixture
def recording(settings, transactional_db):
    settings.RECORD_TOKEN_USE = True
    settings.TOKEN_CACHE_SECONDS = 0
    yield
    last_used.wait()


def test_the_first_use_of_a_token_is_written_down(recording, acme_token):
    before = timezone.now()
    assert verified(acme_token)
    last_used.wait()
    assert before <= row_of(acme_token).last_used_at <= timezone.now()


@pytest.mark.parametrize(("minutes_ago", "is_written"), [(59, False), (61, True)])
def test_last_used_is_kept_to_the_hour(minutes_ago, is_written, recording, acme_token):
    earlier = timezone.now() - timedelta(minutes=minutes_ago)
    ApiToken.objects.update(last_used_at=earlier)
    assert verified(acme_token)
    last_used.wait()
    assert (row_of(acme_token).last_used_at > earlier) is is_written


def test_a_refused_token_was_not_used(recording, acme_token):
    tokens.revoke(acme_token.split("_")[1])
    assert verified(acme_token) is None
    last_used.wait()
    assert row_of(acme_token).last_used_at is None


def test_a_use_that_cannot_be_written_does_not_fail_the_request(recording, acme_token, caplog):
    caplog.set_level("DEBUG", "tenants.last_used")
    table = ApiToken._meta.db_table
    token = row_of(acme_token)
    with connection.schema_editor() as editor:
        editor.alter_db_table(ApiToken, table, "moved_away")
    try:
        last_used.note(token.pk, None)
        last_used.wait()
    finally:
        with connection.schema_editor() as editor:
            editor.alter_db_table(ApiToken, "moved_away", table)
    assert f"The last use of token {token.pk} was not written" in caplog.text
    assert verified(acme_token)
    last_used.wait()
    assert row_of(acme_token).last_used_at


def test_where_uses_are_not_recorded_nothing_is_written(acme_token, settings):
    settings.RECORD_TOKEN_USE = False
    assert verified(acme_token)
    last_used.wait()
    assert row_of(acme_token).last_used_at is None
