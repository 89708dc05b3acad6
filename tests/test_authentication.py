"""Authentication of the API: valid credentials, and the same 401 for all others."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import time
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.utils import timezone
from jwt import encode

from tenants import tokens
from tenants.models import Tenant
from tests.client import Client, verified
from tests.forgery import API_KEY, OLD_SECRET, SECRET, base64url, claims, hmac_header, jwt, session_token

UNAUTHENTICATED = {
    "code": "UNAUTHENTICATED",
    "detail": "Send Authorization: Bearer with a token that is valid, unexpired and of an active tenant.",
}
INVALID_HMAC = {
    "code": "INVALID_HMAC",
    "detail": "X-Shopify-Hmac-Sha256 does not verify: send the base64 HMAC-SHA256 of the raw request body, signed with "
    "the app secret, or leave the header out.",
}


@pytest.fixture(autouse=True)
def _app(settings):
    settings.SHOPIFY_API_KEY = API_KEY
    settings.SHOPIFY_API_SECRETS = [SECRET]


CLIENT = Client()  # one for all: a new one loads the middleware anew


def ask(authorization=None, hmac=None, body=b""):
    """``GET /v1/jobs`` with these headers, each left out when it is None."""
    given = {"HTTP_AUTHORIZATION": authorization, "HTTP_X_SHOPIFY_HMAC_SHA256": hmac}
    headers = {name: value for name, value in given.items() if value is not None}
    return CLIENT.generic("GET", "/v1/jobs", body, content_type="application/json", **headers)


def assert_refused(response, body):
    assert (response.status_code, response.json()) == (401, body)
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_the_caller_is_the_tenant_of_the_credential(acme, acme_token):
    assert verified(acme_token).slug == "acme"
    assert verified(session_token()).slug == "acme"


@pytest.mark.parametrize("spaces", [" ", "  ", "          "])
def test_any_number_of_spaces_may_stand_before_the_token(spaces, acme_token):
    assert ask(f"Bearer{spaces}{acme_token}").status_code == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_may_be_written_in_any_case(scheme, acme_token):
    assert ask(f"{scheme} {acme_token}").status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Bearer\t{token}",
        "Bearer {token} ",
        "Bearer {token}\t",
        "Bearer {token}, Bearer {token}",
        "Bearer,{token}",
        "Bearer: {token}",
        "Bearer={token}",
        " Bearer {token}",
        "Bearer {token}\0",
        "Bearer \xe9\xff",
        "Bearer \ud800",
        "\xc2earer {token}",
        "Token {token}",
        "Basic {basic}",
        "{token}",
        "Bearer " + "x" * 8000,
        "Bearer jgw_" + "_" * 8000,
        "Bearer " + "." * 8000,
    ],
    ids=repr,
)
def test_an_odd_header_is_no_credential(header, acme_token):
    basic = base64.b64encode(f"acme:{acme_token}".encode()).decode()
    assert_refused(ask(header and header.replace("{token}", acme_token).replace("{basic}", basic)), UNAUTHENTICATED)


def test_nothing_but_the_authorization_header_is_a_credential(acme, acme_token, admin_client):
    assert_refused(admin_client.get("/v1/jobs"), UNAUTHENTICATED)
    assert_refused(Client().get("/v1/jobs", {"access_token": acme_token, "tenant_id": acme.pk}), UNAUTHENTICATED)
    assert_refused(ask(hmac=hmac_header(b"")), UNAUTHENTICATED)


def test_the_hmac_header_is_optional_and_has_to_verify(acme_token):
    body = b'{"raw": "body"}'
    bearer = f"Bearer {acme_token}"
    assert ask(bearer).status_code == 200
    assert ask(bearer, hmac_header(b"")).status_code == 200
    assert ask(bearer, hmac_header(body), body).status_code == 200
    assert_refused(ask(bearer, hmac_header(body), body + b"\n"), INVALID_HMAC)
    assert_refused(ask(bearer, hmac_header(body)), INVALID_HMAC)
    assert_refused(ask(bearer, ""), INVALID_HMAC)


def test_without_an_app_secret_an_hmac_header_is_always_wrong(acme_token, settings):
    settings.SHOPIFY_API_SECRETS = []
    assert_refused(ask(f"Bearer {acme_token}", hmac_header(b"")), INVALID_HMAC)
    assert_refused(ask(f"Bearer {acme_token}", hmac_header(b"", "")), INVALID_HMAC)


def test_the_credential_is_checked_before_the_hmac_header(acme_token):
    assert_refused(ask("Bearer nonsense", "nonsense"), UNAUTHENTICATED)
    assert_refused(ask(None, hmac_header(b"")), UNAUTHENTICATED)


def test_the_hmac_header_is_checked_before_the_parameters(acme_token):
    response = Client().get(
        "/v1/jobs?limit=none", headers={"Authorization": f"Bearer {acme_token}", "X-Shopify-Hmac-Sha256": "nonsense"}
    )
    assert_refused(response, INVALID_HMAC)


def test_a_body_too_large_to_be_read_cannot_be_vouched_for(acme_token, settings):
    body = b"x" * (settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1)
    assert_refused(ask(f"Bearer {acme_token}", hmac_header(body), body), INVALID_HMAC)
    assert ask(f"Bearer {acme_token}", body=body).status_code == 200  # nobody asked for it to be read


def test_secrets_rotate_without_a_moment_of_refusal(acme, settings):
    old, new = (f"Bearer {session_token(secret)}" for secret in (OLD_SECRET, SECRET))
    settings.TOKEN_CACHE_SECONDS = 0

    def who_gets_in():
        return [
            ask(bearer, hmac_header(b"", secret)).status_code for bearer, secret in ((old, OLD_SECRET), (new, SECRET))
        ]

    settings.SHOPIFY_API_SECRETS = [OLD_SECRET]
    assert who_gets_in() == [200, 401]
    settings.SHOPIFY_API_SECRETS = [SECRET, OLD_SECRET]
    assert who_gets_in() == [200, 200]
    settings.SHOPIFY_API_SECRETS = [SECRET]
    assert who_gets_in() == [401, 200]


# --- Security test 4: a thousand invalid credentials ---------------------------------------------------------------


def mutations(token, chance):
    """``token`` with a character changed, dropped, doubled or swapped, or cut short."""
    while True:
        place = chance.randrange(len(token))
        other = chance.choice("ABCXYZabcxyz0189-_. ")
        mutated = chance.choice(
            [
                token[:place] + other + token[place + 1 :],
                token[:place] + token[place + 1 :],
                token[:place] + token[place] + token[place:],
                token[:place] + token[place : place + 2][::-1] + token[place + 2 :],
                token[:place],
                token[: place + 1].swapcase() + token[place + 1 :],
            ]
        )
        if mutated != token:
            yield mutated


def wrongly_signed(chance):
    """Session tokens without a signature, with a wrong key, or with a wrong algorithm."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for alg in ("none", "None", "NONE", "nOnE", ""):
        unsigned = ".".join(base64url(part) for part in (f'{{"alg":"{alg}"}}'.encode(), b'{"dest":"x"}'))
        yield from (f"{unsigned}.", unsigned, f"{unsigned}.{base64url(bytes(32))}")
        yield from (jwt(claims(), header={"alg": alg}), jwt(claims(), "", {"alg": alg}))
    for algorithm in ("RS256", "RS384", "RS512", "PS256"):
        yield encode(claims(), key, algorithm=algorithm)
    # The confusion of old libraries: the public key taken for an HMAC secret.
    yield from (jwt(claims(), public, {"alg": alg}) for alg in ("HS256", "RS256"))
    for alg, hash_name in (("HS384", "sha384"), ("HS512", "sha512"), ("HS256", "sha512"), ("HS256", "md5")):
        yield jwt(claims(), SECRET, {"alg": alg}, hash_name)
    for secret in ("", " ", API_KEY, OLD_SECRET, SECRET[:-1], SECRET + " ", SECRET.upper(), "shpss_", SECRET[6:]):
        yield session_token(secret)
    for _ in range(60):
        yield session_token(base64url(chance.randbytes(32)))
    yield from (base64url(b"{" * 6000), f"{base64url(b'[' * 3000)}.{base64url(b'[' * 3000)}.{base64url(bytes(32))}")


def wrongly_claimed():
    """Session tokens signed right, and not in force now, for this app or for any tenant here."""
    now = int(time.time())
    worthless: list[object] = [..., None, "", [], {}, "x"]
    for name in ("exp", "nbf", "aud", "dest"):
        yield from (jwt(claims(**{name: value})) for value in worthless)
    for seconds in (12, 20, 60, 3600, 10**9):
        yield from (session_token(exp=now - seconds), session_token(nbf=now + 300 + seconds))
    for aud in ("another", API_KEY[:-1], API_KEY + "0", API_KEY.upper(), [], ["another"], 7):
        yield session_token(aud=aud)
    for host in ("nobody.myshopify.com", "acme.myshopify.com.evil.example", "acme.evil.example", "localhost", "*"):
        yield from (session_token(dest=f"{scheme}://{host}") for scheme in ("https", "http", "ftp", ""))
    for dest in ("/", ":443", "/admin", "?", "#", ".", "\n", "\0", "%00", " ", "\\", "@evil.example"):
        yield session_token(dest=f"https://acme.myshopify.com{dest}")
    yield from (session_token(padding="x" * size) for size in (6200, 7000, 8192, 20_000))


def dead_gateway_tokens(acme):
    """Revoked, expired, and of a tenant that is no longer served."""
    revoked, expired = tokens.issue(acme), tokens.issue(acme, expires_at=timezone.now() - timedelta(seconds=1))
    tokens.revoke(revoked.split("_")[1])
    closed = Tenant.objects.create(slug="initech", shop_domain="initech.myshopify.com", is_active=False)
    yield from (revoked, expired, tokens.issue(closed), session_token(dest="https://initech.myshopify.com"))


def test_a_thousand_forged_credentials_all_get_one_answer(
    acme, globex, acme_token, settings, monkeypatch, record_property
):
    chance = random.Random(4)
    theirs = tokens.issue(globex)
    forged = [*wrongly_signed(chance), *wrongly_claimed(), *dead_gateway_tokens(acme)]
    forged += [
        acme_token[:17] + theirs[17:],
        theirs[:17] + acme_token[17:],
        hashlib.sha256(acme_token.encode()).hexdigest(),
    ]
    sources = [mutations(acme_token, chance), mutations(session_token(), chance), mutations(theirs, chance)]
    while len(forged) < 700:
        forged.append(next(sources[len(forged) % 3]))

    assert common_body(ask(f"Bearer {token}") for token in forged) == UNAUTHENTICATED

    body = b'{"the": "body"}'
    good = hmac_header(body)
    flips = mutations(good, chance)
    headers = [next(flips) for _ in range(250)]
    headers += [hmac_header(body, base64url(chance.randbytes(24))) for _ in range(40)]
    headers += [hmac_header(b""), hmac_header(body + b" "), hmac_header(body, OLD_SECRET), hmac_header(body, "")]
    headers += [
        base64.b64decode(good).hex(),
        base64.b64decode(good).decode("latin-1"),
        base64url(base64.b64decode(good)),
    ]
    headers += ["", " ", f"{good},{good}", f"sha256={good}"]
    bearer = f"Bearer {acme_token}"

    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: compared.append((one, other)) or one == other)
    settings.SHOPIFY_API_SECRETS = [SECRET, "shpss_another"]
    assert common_body(ask(bearer, header, body) for header in headers) == INVALID_HMAC
    assert ask(bearer, good, body).status_code == 200
    hmacs = [pair for pair in compared if isinstance(pair[0], bytes)]  # and not a token's hash, looked up anew
    assert len(hmacs) == 2 * (len(headers) + 1), "with each secret, whichever it is, and by nothing but this"
    record_property("cases", len(forged) + len(headers))
    assert len(forged) + len(headers) >= 1000


def common_body(responses):
    """The body of these responses. Checks that they are equal, headers included, except for the request id."""
    responses = {
        (answer.status_code, answer.content, *sorted(item for item in answer.items() if item[0] != "X-Request-ID"))
        for answer in responses
    }
    ((status, body, *headers),) = responses
    assert (status, dict(headers)["WWW-Authenticate"]) == (401, "Bearer")
    return json.loads(body)
