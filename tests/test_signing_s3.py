"""Presigned URLs of S3: identical to botocore's, accepted by a real S3 server only unaltered and unexpired."""

from __future__ import annotations

import json
import stat
import sys
import time
from datetime import UTC, datetime
from functools import cache
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx
import pytest
from botocore.config import Config
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jobs.artifacts import signing
from jobs.artifacts.s3 import bucket_url_and_region
from jobs.artifacts.signing import CannotSign, links, signing_times
from jobs.artifacts.sigv4 import Credentials, Presigner

pytestmark = pytest.mark.sqlite  # no database is used: once is enough

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
NOW = datetime(2026, 4, 15, 12, 0, 0, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def lifetime(settings):
    settings.PRESIGN_TTL_SECONDS = 900


# --- Byte for byte ------------------------------------------------------------------------------------------------

# Endpoint, region, addressing.
SETTINGS = (
    (None, "us-east-1", "auto"),
    (None, "us-east-1", "path"),
    (None, "eu-central-1", "auto"),
    (None, "eu-central-1", "virtual"),
    (None, "cn-north-1", "auto"),
    (None, "us-gov-west-1", "path"),
    ("http://127.0.0.1:9000", "us-east-1", "auto"),
    ("http://127.0.0.1:9000", "eu-central-1", "virtual"),
    ("http://minio:80", "us-east-1", "path"),
    ("https://minio.example.com:443", "ap-southeast-2", "virtual"),
    ("https://minio.example.com:8443/s3/v1", "us-east-1", "auto"),
    ("https://minio.example.com:8443/s3/v1", "us-east-1", "path"),
    ("https://Objects.Example.com", "eu-central-1", "auto"),
    ("http://[::1]:9000", "us-east-1", "auto"),
)


@cache
def client_for(endpoint, region, addressing, access_key, secret_key, token):
    return boto3.client(
        "s3",
        region_name=region,
        endpoint_url=endpoint,
        config=Config(signature_version="s3v4", s3={"addressing_style": addressing}),
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        aws_session_token=token,
    )


CREDENTIALS = (
    ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None),
    ("ASIA/with+odd=characters", "ключ", "FwoGZXIvYXdzE//+token==/ with spaces~"),
)
buckets = st.from_regex(r"[a-z0-9][a-z0-9-]{1,30}[a-z0-9]", fullmatch=True) | st.sampled_from(
    ("pictures", "pictures.example.com", "a-b.c-d")
)
keys = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60).filter(
    lambda key: key[0] != "/" and ".." not in key.split("/")
)


@hypothesis_settings(max_examples=max(200, hypothesis_settings().max_examples), deadline=None)
@given(
    store=st.sampled_from(SETTINGS),
    bucket=buckets,
    key=keys,
    credentials=st.sampled_from(CREDENTIALS),
    now=st.integers(0, 4_000_000_000),
    ttl_seconds=st.integers(1, 604_800),
)
@example((None, "us-east-1", "virtual"), "a.b", "tenants/~a b+c%2F&=?#\U0001f457.png", ("a", "b", None), 0, 1)
def test_a_link_is_byte_for_byte_what_botocore_makes(store, bucket, key, credentials, now, ttl_seconds):
    client = client_for(*store, *credentials)
    presigner = Presigner(*bucket_url_and_region(client, bucket), Credentials(*credentials), now, now + ttl_seconds)
    with mock.patch("botocore.auth.get_current_datetime", return_value=datetime.fromtimestamp(now, UTC)):
        expected = client.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=ttl_seconds
        )
    assert presigner.url(key) == expected


@pytest.mark.parametrize(("endpoint", "region", "addressing"), SETTINGS)
def test_the_storage_signs_as_botocore_does_from_the_same_settings(aws, clock, endpoint, region, addressing):
    access_key, secret_key, _ = CREDENTIALS[0]
    keys = {"access_key": access_key, "secret_key": secret_key}
    aws(endpoint_url=endpoint, region_name=region, addressing_style=addressing, **keys)
    client = client_for(endpoint, region, addressing, *CREDENTIALS[0])
    with mock.patch("botocore.auth.get_current_datetime", return_value=datetime.fromtimestamp(NOW, UTC)):
        expected = client.generate_presigned_url(
            "get_object", Params={"Bucket": "pictures", "Key": "a b.png"}, ExpiresIn=900
        )
    assert links("").url("a b.png") == expected


# --- Windows ------------------------------------------------------------------------------------------------------


@given(now=st.floats(1, 4e9), ttl_seconds=st.integers(1, 1_000_000))
@example(now=1000.0, ttl_seconds=900)
@example(now=1200.0, ttl_seconds=900)
@example(now=1000.999, ttl_seconds=1)
def test_at_least_two_thirds_of_the_lifetime_are_left_at_every_moment(now, ttl_seconds):
    signed_at, expires_at = signing_times(now, ttl_seconds)
    lifetime = min(ttl_seconds, signing.MAX_TTL_SECONDS)
    assert signed_at <= now
    assert expires_at - now >= lifetime * 2 / 3 - 1e-6
    assert expires_at - signed_at == lifetime or lifetime < 3
    assert expires_at - now <= max(lifetime, lifetime * 2 / 3 + 1)


def test_a_window_is_a_third_of_the_lifetime():
    times = [signing_times(NOW + second, 900) for second in range(900)]
    assert len(set(times)) == 3
    assert {signed_at % 300 for signed_at, _ in times} == {0}


@pytest.fixture
def clock(monkeypatch):
    """Sets the time that links are made at."""

    def at(now):
        monkeypatch.setattr(time, "time", lambda: now)

    at(NOW + 1)
    return at


@pytest.fixture
def aws(settings):
    """Puts the artifact store into a bucket of AWS, with keys in its settings or ones that it has to find."""

    def store(keys_from_elsewhere=False, **options):
        keys = {} if keys_from_elsewhere else {"access_key": "AKIA1", "secret_key": "secret"}
        options = {"bucket_name": "pictures", "region_name": "eu-central-1"} | keys | options
        artifacts = {"BACKEND": "jobs.artifacts.s3.SignedS3Storage", "OPTIONS": options}
        settings.STORAGES = settings.STORAGES | {"artifacts": artifacts}
        return storages["artifacts"]

    return store


def test_links_stay_the_same_within_a_window_and_change_with_the_next(aws, clock):
    aws()
    first = links("http://testserver")
    clock(NOW + 299)
    assert links("http://elsewhere").url("a.png") == first.url("a.png")
    assert links("http://testserver").window == first.window
    clock(NOW + 301)
    later = links("http://testserver")
    assert later.window != first.window
    assert later.url("a.png") != first.url("a.png")
    assert (first.expires_at, later.expires_at) == (NOW + 900, NOW + 1200)


def test_the_storage_itself_gives_the_same_link(aws, clock):
    store = aws()
    assert store.url("tenants/acme/front.png") == links("").url("tenants/acme/front.png")


@pytest.mark.parametrize("key", ["", "/a.png", "a/../b.png", "../a.png", "a\0.png", "\ud800.png"])
def test_an_invalid_key_is_not_signed(aws, clock, key):
    store = aws()
    for sign in (store.url, links("").url):
        with pytest.raises(ValueError, match="The storage key"):
            sign(key)


def test_a_lifetime_is_cut_to_the_week_that_s3_allows(aws, clock, settings):
    settings.PRESIGN_TTL_SECONDS = 30 * 24 * 3600
    aws()
    assert parse_qs(urlsplit(links("").url("a.png")).query)["X-Amz-Expires"] == ["604800"]


# --- Credentials --------------------------------------------------------------------------------------------------


def query_of(url):
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def test_other_credentials_start_a_new_window(aws, clock):
    aws()
    before = links("")
    aws(access_key="AKIA2")
    assert links("").window != before.window
    aws(secret_key="rotated")
    assert links("").window != before.window
    aws()
    assert links("").window == before.window


def test_without_credentials_the_error_says_what_to_set(aws):
    aws(keys_from_elsewhere=True)
    with pytest.raises(CannotSign, match="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        links("")


def test_without_credentials_responses_are_503(aws, acme_client):
    aws(keys_from_elsewhere=True)
    answer = acme_client.get("/v1/jobs")
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert answer.json() == {
        "code": "UNAVAILABLE",
        "detail": "The job store cannot be reached right now. Try again in a few seconds.",
    }


def test_credentials_of_the_environment_are_used_with_their_session_token(aws, clock, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIA1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a+token==")
    aws(keys_from_elsewhere=True)
    query = query_of(links("").url("a.png"))
    assert query["X-Amz-Credential"] == "ASIA1/20260415/eu-central-1/s3/aws4_request"
    assert query["X-Amz-Security-Token"] == "a+token=="


@pytest.fixture
def credential_process(tmp_path, monkeypatch):
    """A profile whose credentials come from a program and expire; called with what the program says from now on."""
    said, program = tmp_path / "said.json", tmp_path / "program"
    program.write_text(f"#!{sys.executable}\nprint(open({str(said)!r}).read())\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))

    def says(access_key, expires_at):
        expiration = datetime.fromtimestamp(expires_at, UTC).isoformat()
        secret = {"AccessKeyId": access_key, "SecretAccessKey": "secret", "SessionToken": f"token of {access_key}"}
        said.write_text(json.dumps({"Version": 1, "Expiration": expiration} | secret))

    return says


def test_a_link_lives_no_longer_than_temporary_credentials(aws, credential_process, settings):
    settings.PRESIGN_TTL_SECONDS = 7200
    expires_at = int(time.time()) + 3600
    credential_process("ASIA1", expires_at)
    aws(keys_from_elsewhere=True)
    made = links("")
    query = query_of(made.url("a.png"))
    signed_at = datetime.strptime(query["X-Amz-Date"] + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()
    assert signed_at + int(query["X-Amz-Expires"]) == made.expires_at == expires_at
    assert query["X-Amz-Security-Token"] == "token of ASIA1"


def test_refreshed_credentials_start_a_new_window(aws, credential_process, monkeypatch):
    monkeypatch.setattr("jobs.artifacts.credentials.CHECK_SECONDS", 0.01)
    credential_process("ASIA1", time.time() + 300)  # so close to its end that new ones are asked for
    aws(keys_from_elsewhere=True)
    before = after = links("")
    credential_process("ASIA2", time.time() + 3600)
    deadline = time.monotonic() + 30
    while "ASIA2" not in after.url("a.png") and time.monotonic() < deadline:  # the window may end by itself
        time.sleep(0.02)
        after = links("")
    assert query_of(before.url("a.png"))["X-Amz-Security-Token"] == "token of ASIA1"
    assert query_of(after.url("a.png"))["X-Amz-Security-Token"] == "token of ASIA2"
    assert after.window != before.window


def test_credentials_that_cannot_be_refreshed_sign_nothing(aws, credential_process):
    credential_process("ASIA1", time.time() - 1)
    aws(keys_from_elsewhere=True)
    with pytest.raises(CannotSign):
        links("")


def test_credentials_of_the_environment_may_expire(aws, monkeypatch):
    expires_at = int(time.time()) + 100
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIA1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", datetime.fromtimestamp(expires_at, UTC).isoformat())
    aws(keys_from_elsewhere=True)
    assert links("").expires_at == expires_at
    with mock.patch("time.time", return_value=expires_at + 1.0), pytest.raises(CannotSign, match="have expired"):
        links("")


# --- At a real server ---------------------------------------------------------------------------------------------

ODD_KEYS = (
    "tenants/acme/front.png",
    "tenants/acme/a b+c%2Fd%.png",
    "tenants/acme/straße 客 \U0001f457.png",
    "tenants/acme/a&b=c?d#e;f:g@h,i!j$k'l(m)n*o.png",
    'tenants/acme/[quote"]{brace}|pipe\\back^caret`tick<angle>.png',
    "tenants/acme/~tilde_under-dash.png",
    "tenants/acme/..two..dots../x",
)


def test_a_plain_get_of_the_link_returns_the_pictures_bytes(s3_store):
    for number, key in enumerate(ODD_KEYS):
        s3_store.bucket.put_object(Key=key, Body=PNG + bytes([number]))
    with httpx.Client() as client:
        for number, key in enumerate(ODD_KEYS):
            answer = client.get(links("http://testserver").url(key))
            assert (answer.status_code, answer.content) == (200, PNG + bytes([number])), key


def test_the_url_of_a_saved_file_returns_its_content(s3_store):
    key = s3_store.save("tenants/acme/saved.png", ContentFile(PNG))
    assert httpx.get(s3_store.url(key)).content == PNG


def test_a_link_to_a_file_that_is_gone_answers_404(s3_store):
    assert httpx.get(links("").url("tenants/acme/gone.png")).status_code == 404


def altered(url, other):
    """Altered links: (alteration, method, URL)."""
    address, query = url.split("?")
    pairs = dict(pair.split("=") for pair in query.split("&"))
    signature = pairs["X-Amz-Signature"]

    def asking(**changed):
        names = {name.replace("-", "_"): name for name in pairs}
        merged = pairs | {names[name]: value for name, value in changed.items()}
        return f"{address}?" + "&".join(f"{name}={value}" for name, value in merged.items() if value is not None)

    flipped = ("0" if signature[0] != "0" else "1") + signature[1:]
    yield "no query", "GET", address
    yield "no signature", "GET", asking(X_Amz_Signature=None)
    yield "empty signature", "GET", asking(X_Amz_Signature="")
    yield "flipped signature", "GET", asking(X_Amz_Signature=flipped)
    yield "short signature", "GET", asking(X_Amz_Signature=signature[:-1])
    yield "longer life", "GET", asking(X_Amz_Expires="86400")
    yield "signed later", "GET", asking(X_Amz_Date="20991231T235959Z")
    yield "other day", "GET", asking(X_Amz_Credential=pairs["X-Amz-Credential"].replace("%2F20", "%2F19", 1))
    yield "other region", "GET", asking(X_Amz_Credential=pairs["X-Amz-Credential"].replace("us-east-1", "eu-west-1"))
    yield "other caller", "GET", asking(X_Amz_Credential="AKIAOTHER" + pairs["X-Amz-Credential"][9:])
    yield "more parameters", "GET", f"{url}&response-content-type=text%2Fhtml"
    yield "list the bucket", "GET", f"{url}&list-type=2"
    yield "other key", "GET", url.replace("mine.png", "theirs.png")
    yield "other folder", "GET", f"{other}?{query}"
    yield "shorter key", "GET", url.replace("mine.png", "")
    yield "the bucket", "GET", f"{address.split('/tenants/')[0]}/?{query}"
    yield "dot segments", "GET", url.replace("/acme/mine.png", "/acme/%2e%2e/globex/theirs.png")
    yield "delete", "DELETE", url
    yield "put", "PUT", url
    yield "post", "POST", url


def test_an_altered_link_is_rejected(s3_store):
    for key in ("tenants/acme/mine.png", "tenants/acme/theirs.png", "tenants/globex/theirs.png"):
        s3_store.bucket.put_object(Key=key, Body=PNG)
    url = links("").url("tenants/acme/mine.png")
    theirs = links("").url("tenants/globex/theirs.png").partition("?")[0]
    with httpx.Client() as client:
        assert client.get(url).content == PNG
        answers = {what: client.request(method, bent).status_code for what, method, bent in altered(url, theirs)}
        assert client.get(url).content == PNG
    assert {what: status for what, status in answers.items() if status < 400} == {}
    assert set(answers.values()) <= {400, 403, 404, 405}
    assert answers["no query"] == answers["flipped signature"] == answers["other key"] == 403


@pytest.mark.parametrize("ttl_seconds", [3, pytest.param(10, marks=pytest.mark.full)])
def test_a_link_stops_when_it_expires(s3_store, settings, ttl_seconds):
    settings.PRESIGN_TTL_SECONDS = ttl_seconds
    s3_store.bucket.put_object(Key="tenants/acme/brief.png", Body=PNG)
    asked_at = time.time()
    made = links("")
    assert made.expires_at - asked_at >= ttl_seconds * 2 / 3
    assert httpx.get(made.url("tenants/acme/brief.png")).status_code == 200
    time.sleep(made.expires_at + 1 - time.time())  # the server too counts in whole seconds
    assert httpx.get(made.url("tenants/acme/brief.png")).status_code == 403
