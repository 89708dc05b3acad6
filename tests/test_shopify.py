"""Session tokens that Shopify signs, and the HMAC header (CONTRACT.md, section 1)."""

from __future__ import annotations

import time

import pytest
from django.core import checks

from tenants import callers, shopify
from tenants.callers import Caller
from tenants.models import Tenant
from tests.client import verified
from tests.forgery import API_KEY, OLD_SECRET, SECRET, base64url, claims, hmac_header, jwt, session_token

NESTED_DEEP = b'{"alg": "HS256", "deep": ' + b"[" * 5000 + b"]" * 5000 + b"}"


@pytest.fixture(autouse=True)
def _app(settings):
    settings.SHOPIFY_API_KEY = API_KEY
    settings.SHOPIFY_API_SECRETS = [SECRET]
    settings.TOKEN_CACHE_SECONDS = 5


def test_a_session_token_stands_for_the_tenant_of_its_shop(acme, globex):
    assert verified(session_token()) == Caller(acme.pk, "acme", "tenants/acme/", None)
    theirs = session_token(dest="https://globex.myshopify.com")
    assert verified(theirs) == Caller(globex.pk, "globex", "tenants/globex/", None)


def test_unknown_claims_change_nothing(acme):
    assert verified(session_token(iss=..., sub=..., iat=..., jti=..., tenant="globex"))


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET])
def test_each_of_several_secrets_counts_while_one_is_rotated_out(secret, acme, settings):
    settings.SHOPIFY_API_SECRETS = [SECRET, OLD_SECRET]
    assert verified(session_token(secret))


def test_the_old_secret_opens_nothing_once_it_is_gone(acme):
    assert verified(session_token(OLD_SECRET)) is None


@pytest.mark.parametrize("missing", ["SHOPIFY_API_KEY", "SHOPIFY_API_SECRETS"])
def test_a_gateway_with_no_app_takes_no_session_token(missing, acme, settings):
    setattr(settings, missing, type(getattr(settings, missing))())
    assert verified(session_token()) is None
    assert verified(session_token("", aud="")) is None


@pytest.mark.parametrize(
    ("changes", "is_valid"),
    [
        ({"exp": -8}, True),
        ({"exp": -11}, False),
        ({"nbf": 8}, True),
        ({"nbf": 13}, False),
    ],
)
def test_clocks_may_differ_by_ten_seconds(changes, is_valid, acme):
    token = session_token(**{name: int(time.time()) + seconds for name, seconds in changes.items()})
    assert (verified(token) is not None) is is_valid


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": ...},
        {"nbf": ...},
        {"aud": ...},
        {"dest": ...},
        {"aud": "another app"},
        {"aud": ""},
        {"aud": None},
        {"aud": {API_KEY: 1}},
        {"exp": "soon"},
        {"exp": None},
        {"exp": []},
        {"exp": True},
        {"exp": float("-inf")},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"nbf": 10**400},
        {"nbf": float("inf")},
        {"nbf": {}},
        {"dest": None},
        {"dest": ""},
        {"dest": 42},
        {"dest": ["https://acme.myshopify.com"]},
        {"dest": {"https": "acme.myshopify.com"}},
        {"dest": "http://acme.myshopify.com"},
        {"dest": "HTTPS://acme.myshopify.com"},
        {"dest": "https://ACME.myshopify.com"},
        {"dest": "https://acme.myshopify.com/"},
        {"dest": "https://acme.myshopify.com/admin"},
        {"dest": "https://acme.myshopify.com:443"},
        {"dest": "https://user@acme.myshopify.com"},
        {"dest": "https://acme.myshopify.com?x=1"},
        {"dest": "https://acme.myshopify.com#x"},
        {"dest": "https://acme.myshopify.com."},
        {"dest": "https://acme.myshopify.com\n"},
        {"dest": "https://acme.myshopify.com\0"},
        {"dest": " https://acme.myshopify.com"},
        {"dest": "https://https://acme.myshopify.com"},
        {"dest": "https://acme.myshopify.com.evil.example"},
        {"dest": "https://nobodys.myshopify.com"},
        {"dest": "https://ácme.myshopify.com"},
        {"dest": "https://\ud800.myshopify.com"},
        {"dest": "https://" + "a." * 200 + "com"},
        {"sub": 42},
    ],
    ids=repr,
)
def test_a_signed_token_still_has_to_say_the_right_things(changes, acme):
    assert verified(session_token(**changes)) is None


@pytest.mark.parametrize(
    "payload",
    [b"", b"null", b"[]", b'"x"', b"{", b"\xff\xfe", b'{"exp": ' + b"9" * 5000 + b"}", b"[" * 5000],
    ids=lambda payload: repr(payload[:12]),
)
def test_a_signed_payload_that_is_no_claims_crashes_nothing(payload, acme):
    assert verified(jwt(payload)) is None


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": "HS384"},
        {"alg": "RS256"},
        {"alg": ""},
        {"alg": None},
        {"alg": ["HS256"]},
        {"typ": "JWT"},
        {"alg": "HS256", "b64": False, "crit": ["b64"]},
        {"alg": "HS256", "crit": ["exp"]},
        {"alg": "HS256", "kid": 7},
        [],
        b"",
        b"\xff",
        NESTED_DEEP[:6000],
    ],
    ids=lambda header: repr(header)[:40],
)
def test_only_hs256_counts_whatever_the_header_says(header, acme):
    assert verified(jwt(claims(), header=header)) is None


def test_a_token_of_more_than_8_kb_is_not_even_parsed(acme):
    padded = session_token(padding="x" * 6200)
    assert len(padded) > 8192
    assert verified(padded) is None
    assert verified(session_token(padding="x" * 4000))


def test_only_one_spelling_of_a_signature_counts(acme):
    token = session_token()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert [last for last in alphabet if verified(token[:-1] + last)] == [token[-1]]


@pytest.mark.parametrize(
    "changes",
    [{"aud": [API_KEY]}, {"aud": ["another app", API_KEY]}, {"dest": "acme.myshopify.com"}],
    ids=repr,
)
def test_aud_may_be_a_list_and_dest_a_bare_domain(changes, acme):
    assert verified(session_token(**changes))


@pytest.mark.parametrize("token", ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "\0.\0.\0", "é.é.é"])
def test_what_is_no_session_token_is_refused_before_it_is_parsed(token, django_assert_num_queries, db):
    with django_assert_num_queries(0):
        assert verified(token) is None


def test_a_forged_token_costs_no_statement_and_a_good_one_one(acme, django_assert_num_queries):
    good = session_token()
    with django_assert_num_queries(0):
        assert verified(session_token("another secret of no app at all")) is None
    with django_assert_num_queries(1):
        assert verified(good)
    with django_assert_num_queries(0):
        assert verified(good)


def test_a_cached_token_expires_all_the_same(acme, monkeypatch, settings):
    token = session_token(exp=int(time.time()) + 2)
    assert verified(token)
    later = time.time() + 13
    monkeypatch.setattr(callers, "time", lambda: later)
    settings.SHOPIFY_API_SECRETS = ["shpss_another" * 4]  # if it were looked up again, it would be rejected
    assert verified(token) is None


def test_an_inactive_tenant_is_refused_at_once(acme):
    token = session_token()
    assert verified(token)
    acme.is_active = False
    acme.save()
    assert verified(token) is None


def test_no_shop_means_no_session_token(db):
    Tenant.objects.create(slug="initech")
    assert verified(session_token(dest="https://")) is None
    assert verified(session_token(dest="https://None")) is None


@pytest.mark.parametrize("body", [b"", b'{"a": 1}', bytes(range(256))])
def test_the_hmac_header_verifies_over_the_very_body(body, settings):
    settings.SHOPIFY_API_SECRETS = [SECRET, OLD_SECRET]
    assert shopify.hmac_verifies(hmac_header(body), body)
    assert shopify.hmac_verifies(hmac_header(body, OLD_SECRET), body)
    assert not shopify.hmac_verifies(hmac_header(body, "another secret"), body)
    assert not shopify.hmac_verifies(hmac_header(body), body + b" ")


@pytest.mark.parametrize("header", ["", " ", "=", "é" * 44, "\u2026", "\0", "a" * 8192])
def test_a_header_that_is_no_hmac_verifies_nothing(header):
    assert not shopify.hmac_verifies(header, b"")


def test_only_one_spelling_of_an_hmac_counts():
    good = hmac_header(b"")
    other = [good[:42] + last + "=" for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"]
    assert [header for header in other if shopify.hmac_verifies(header, b"")] == [good]
    for spelling in (good.rstrip("="), good + "\n", " " + good, good.replace("=", "%3D"), good + "," + good):
        assert not shopify.hmac_verifies(spelling, b"")


def test_without_an_app_secret_no_hmac_verifies(settings):
    settings.SHOPIFY_API_SECRETS = []
    assert not shopify.hmac_verifies(hmac_header(b"", ""), b"")


@pytest.mark.parametrize(
    ("key", "secrets", "ids"),
    [
        ("", [], []),
        (API_KEY, [SECRET], []),
        (API_KEY, [SECRET, ""], ["tenants.E002"]),
        (API_KEY, [" "], ["tenants.E002"]),
        (API_KEY, [], ["tenants.W001"]),
        ("", [SECRET], ["tenants.W001"]),
    ],
)
def test_check_reports_an_incomplete_app(key, secrets, ids, settings):
    settings.SHOPIFY_API_KEY, settings.SHOPIFY_API_SECRETS = key, secrets
    assert [message.id for message in checks.run_checks() if message.id in {"tenants.E002", "tenants.W001"}] == ids


def test_the_forgeries_would_pass_if_they_were_signed_right(acme):
    """What the other tests lean on: the hand-made token is good until something is changed."""
    assert verified(jwt(claims()))
    assert base64url(b"\xfb\xff") == "-_8"
