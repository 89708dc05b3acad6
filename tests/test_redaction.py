"""No string of a response holds a reference to the artifact store (CONTRACT section 5)."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from urllib.parse import quote, quote_plus

import pytest
from django.core.files.storage import storages
from django.db import transaction
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jobs.artifacts.redaction import Redactor, redactor

pytestmark = pytest.mark.full_on_postgresql

PREFIX = "tenants/acme/"
BASES = (
    "https://pix.s3*.amazonaws.com*/",
    "https://s3*.amazonaws.com*/pix/",
    "http://minio.internal:9000/",
    "http://pix.minio.internal:9000/",
    "https://jobs.example.com/artifacts/",
)
acmes = Redactor(PREFIX, BASES)


@pytest.mark.parametrize(
    "reference",
    [
        "s3://pix/tenants/acme/front.png",
        "S3://pix/front.png",
        "tenants/acme/front.png",
        "tenants/acme/",
        "https://pix.s3.amazonaws.com/front.png?X-Amz-Signature=0",
        "https://pix.s3.eu-central-1.amazonaws.com/front.png",
        "https://pix.s3-eu-west-1.amazonaws.com/front.png",
        "https://pix.s3.dualstack.us-east-1.amazonaws.com/front.png",
        "https://pix.s3-accelerate.amazonaws.com/front.png",
        "https://pix.s3.cn-north-1.amazonaws.com.cn/front.png",
        "https://s3.eu-central-1.amazonaws.com/pix/front.png",
        "https://s3.amazonaws.com:443/pix/front.png",
        "HTTPS://PIX.S3.AMAZONAWS.COM/front.png",
        "//pix.s3.amazonaws.com/front.png",
        "pix.s3.amazonaws.com/front.png",
        "http://minio.internal:9000/pix/front.png",
        "https://minio.internal:9000/other/front.png",
        "http://pix.minio.internal:9000/front.png",
        "https://jobs.example.com/artifacts/front.png?expires=1&signature=0",
        "http://jobs.example.com:80/artifacts/front.png",
        "//jobs.example.com/artifacts/front.png",
        "https://jobs.example.com./artifacts/front.png",
        "s3:\\/\\/pix\\/front.png",
        "tenants\\/acme\\/front.png",
        "tenants\\u002facme\\u002Ffront.png",
        "https:\\/\\/jobs.example.com\\/artifacts\\/front.png",
        quote("s3://pix/front.png", safe=""),
        quote("tenants/acme/front.png", safe=""),
        quote(quote("tenants/acme/front.png", safe=""), safe=""),
        quote("https://jobs.example.com/artifacts/front.png", safe=""),
        "tenants%2facme%2ffront.png",
        # The host alone, with a query, with another port, with a user.
        "https://minio.internal",
        "http://minio.internal:9000",
        "HTTPS://MINIO.INTERNAL.:9001/console/",
        "minio.internal",
        "minio.internal:1",
        "//minio.internal?list-type=2",
        "http://minio.internal:9000?list-type=2",
        "http://minio.internal#x",
        "https://pix.s3.eu-central-1.amazonaws.com",
        "pix.s3.amazonaws.com?list-type=2",
        "https://s3.eu-central-1.amazonaws.com/pix",
        "https://s3.eu-central-1.amazonaws.com/pix?prefix=a",
        "https://AKIA1:secret@minio.internal/front.png",
        "https://pix@jobs.example.com/artifacts/front.png",
        "https://other.minio.internal:9000/front.png",
        "https://jobs.example.com:8443/artifacts/front.png",
        "https://jobs.example.com/artifacts",
        "https://jobs.example.com/artifacts?expires=1",
        # Empty and dot segments.
        "https://jobs.example.com//artifacts/front.png",
        "https://jobs.example.com/./artifacts/front.png",
        "https://jobs.example.com/.//./artifacts//front.png",
        "https://s3.amazonaws.com//pix/front.png",
        "tenants//acme/front.png",
        "tenants/./acme/front.png",
        # Other schemes of S3, and ARNs.
        "s3a://pix/front.png",
        "S3N://pix/front.png",
        "s3a:\\/\\/pix",
        "arn:aws:s3:::pix/front.png",
        "arn:aws-cn:s3:::pix",
        "ARN:aws-us-gov:S3:eu-west-1:123456789012:accesspoint/pix",
        "arn%3Aaws%3As3%3A%3A%3Apix",
        # Characters that need no encoding.
        "%74enants/acme/front.png",
        "tenants/%61%63me/front.png",
        "t%2565nants/acme/front.png",
        "%73%33://pix/front.png",
        "https://j%6Fbs.example.com/artifacts/front.png",
        "https://jobs.example.com/%61rtifacts/front.png",
        "https://minio%2Einternal/front.png",
        "\\u0074enants/acme/front.png",
        "\\u0073\\u0033\\u003a//pix",
        "https://minio\\u002einternal/front.png",
        # Encodings in one another.
        "\\u002574enants/acme/front.png",
        "%5Cu0074enants/acme/front.png",
        "tenants%5C/acme%5c/front.png",
        "%25%37%34enants/acme/front.png",
    ],
)
def test_a_reference_is_redacted_wherever_it_starts(reference):
    assert acmes.redact_text(reference) == "[redacted]"
    assert acmes.redact_text(f"wrote {reference} and more") == "wrote [redacted]"
    assert acmes.redact_text(f"wrote:{reference}\nand more") == "wrote:[redacted]"


@pytest.mark.parametrize(
    "innocent",
    [
        "",
        "studio, soft light, 3/4 view, 50% grey",
        "https://example.com/images/front.png",
        "https://example.com/artifacts/front.png",
        "https://jobs.example.com/docs",
        "https://jobs.example.com/artifacts-2/front.png",
        "https://jobs.example.com/artifacts.html",
        "https://jobs.example.com:8443/",
        "https://s3.amazonaws.com/somebody-elses/front.png",
        "https://s3.amazonaws.com/pixels/front.png",
        "https://s3.amazonaws.com",
        "https://minio.internal.example.com/front.png",
        "https://minio.internals/front.png",
        "https://dominio.internal/front.png",
        "arn:aws:iam::123456789012:role/s3",
        "100%25 s3, %73",
        "C:\\\\tenants\\\\acme\\\\front.png",
        "s3 and S3:",
        "tenants/globex and tenants/acmes/",
        "C:\\tenants\\acme\\front.png",
        "[redacted]",
    ],
)
def test_other_text_is_returned_unchanged(innocent):
    assert acmes.redact_text(innocent) is innocent


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ('wrote "s3://pix/a b.png" twice', 'wrote "[redacted]" twice'),
        ('wrote "to s3://pix/a b.png" twice', 'wrote "to [redacted]" twice'),
        ("wrote 's3://pix/a b.png' twice", "wrote '[redacted]' twice"),
        ("wrote `s3://pix/a b.png` twice", "wrote `[redacted]` twice"),
        ("{'key': 'tenants/acme/a.png', 'n': 2}", "{'key': '[redacted]', 'n': 2}"),
        ('{"a": "tenants/acme/a.png", "b": "s3://pix/b", "n": 2}', '{"a": "[redacted]", "b": "[redacted]", "n": 2}'),
        # No quotation is open: it goes on to the end, spaces, quotes and all.
        ('said "done" s3://pix/a "b" c.png', 'said "done" [redacted]'),
        ("it's s3://pix/a' b", "it's [redacted]"),
        # Opened and never closed.
        ("'s3://pix/a b.png", "'[redacted]"),
        ('"s3://pix/a b.png', '"[redacted]'),
        ("\"only ' 's3://pix/a b.png\" twice", "\"only ' '[redacted]\" twice"),
        # JSON within a string of JSON ends at its own level; the backslash of a closing quote stays.
        (r'{"said": "{\"key\": \"s3://pix/a\", \"n\": 2}"}', r'{"said": "{\"key\": \"[redacted]\", \"n\": 2}"}'),
        (r"{\"key\": \"s3://pix/a\", \"n\": 2}", r"{\"key\": \"[redacted]\", \"n\": 2}"),
        # A quote within a key is escaped, and so does not close.
        (r'{"key": "s3://pix/a\"b.png", "n": 2}', r'{"key": "[redacted]", "n": 2}'),
    ],
)
def test_the_section_ends_at_the_quote_that_closes_it(text, redacted):
    assert acmes.redact_text(text) == redacted
    assert acmes.redact_text(redacted) is redacted


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ('wrote "%74enants/acme/a b.png" twice', 'wrote "[redacted]" twice'),
        ('"ein Weg%3A straße" "%C3%A9 tenants%2Facme%2Fa" b', '"ein Weg%3A straße" "%C3%A9 [redacted]" b'),
        (r'{"said": "{\"key\": \"s3:\/\/pix\", \"n\": 2}"}', r'{"said": "{\"key\": \"[redacted]\", \"n\": 2}"}'),
        ('%ff%C3"%74enants/acme/"%ff', '%ff%C3"[redacted]"%ff'),
        ("\\ud83d\\udc57 '\\u0074enants/acme/' b", "\\ud83d\\udc57 '[redacted]' b"),
    ],
)
def test_an_encoded_reference_is_cut_where_it_stands_and_the_rest_stays_encoded(text, redacted):
    assert acmes.redact_text(text) == redacted
    assert acmes.redact_text(redacted) is redacted


def test_a_host_that_may_be_a_word_is_a_reference_in_a_url_or_with_a_port_only():
    redact = Redactor(PREFIX, ("http://minio:9000/", "http://pix.minio:9000/")).redact_text
    for reference in (
        "http://minio",
        "https://minio:9001/x",
        "//minio/pix",
        "minio:9000",
        "minio:9000/pix",
        "pix.minio",
    ):
        assert redact(f"at {reference}") == "at [redacted]"
    for innocent in ("minio is slow", "minio: slow", "in minio/nginx", "dominio:9000", "https://minios/x"):
        assert redact(innocent) is innocent


@pytest.mark.parametrize("host", ["10.0.0.5:9000", "[::1]:9000", "[fd00::5]"])
def test_a_store_is_recognised_by_its_ip_address(host):
    redact = Redactor(PREFIX, (f"http://{host}/",)).redact_text
    for reference in (
        f"http://{host}/pix/a",
        f"https://{host}",
        host,
        host.partition("]")[0] + "]" if "[" in host else host,
    ):
        assert redact(f"at {reference}") == "at [redacted]"
    assert redact("at 110.0.0.5 and 10.0.0.55") == "at 110.0.0.5 and 10.0.0.55"


def test_values_that_hold_no_reference_come_back_as_the_same_objects():
    for value in ({}, [], None, True, 7, 0.5, {"prompt": "soft light", "sizes": [1, [2, {"unit": "px"}]]}, ["a/b"]):
        assert acmes.redact_value(value) is value


def test_member_names_are_redacted_and_values_at_any_depth():
    value = {"s3://pix/a": {"list": [1, ["tenants/acme/b", None]]}, "untouched": {"n": 1}}
    assert acmes.redact_value(value) == {"[redacted]": {"list": [1, ["[redacted]", None]]}, "untouched": {"n": 1}}


def test_member_names_that_collide_are_numbered():
    first = {"s3://b": 2, "s3://a": 1, "tenants/acme/c": 3}
    second = {"tenants/acme/c": 3, "s3://a": 1, "s3://b": 2}
    assert (
        acmes.redact_value(first)
        == acmes.redact_value(second)
        == {"[redacted]": 1, "[redacted] 2": 2, "[redacted] 3": 3}
    )
    assert list(acmes.redact_value(first)) == ["[redacted] 2", "[redacted]", "[redacted] 3"]


def test_member_names_without_a_reference_are_kept():
    value = {"s3://a": 1, "[redacted]": 2, "s3://b": 3, "[redacted] 2": 4}
    assert acmes.redact_value(value) == {"[redacted] 3": 1, "[redacted]": 2, "[redacted] 4": 3, "[redacted] 2": 4}
    assert acmes.redact_value({'"s3://a" x': 1, '"s3://b" x': 2}) == {'"[redacted]" x': 1, '"[redacted]" x 2': 2}


def test_an_empty_prefix_redacts_no_keys_but_still_the_stores_urls():
    anyones = Redactor("", BASES)
    assert anyones.redact_text("tenants/acme/front.png") == "tenants/acme/front.png"
    assert anyones.redact_text("at s3://pix/front.png") == "at [redacted]"


def every_octet_encoded(text):
    return "".join(f"%{octet:02x}" for octet in text.encode())


@pytest.mark.parametrize("prefix", ["kunden/straße/", "客/", "tenants/a b+c&d/", "flat-", 'q"uote/', "dollar$/^("])
def test_any_prefix_is_recognised_as_it_stands_in_a_url_and_in_json(prefix):
    redact = Redactor(prefix, BASES).redact_text
    key = f"{prefix}front.png"
    for spelling in (
        key,
        quote(key),
        quote(key, safe=""),
        quote_plus(key),
        every_octet_encoded(key),
        json.dumps(key)[1:-1],
        json.dumps(json.dumps(key))[3:-3],
    ):
        assert redact(f"wrote {spelling}") == "wrote [redacted]"


def test_the_gateways_own_urls_are_redacted(local_store, settings):
    settings.PUBLIC_BASE_URL = "https://jobs.example.com"
    redact = redactor(PREFIX, "http://testserver").redact_text
    assert redact("see https://jobs.example.com/artifacts/x") == "see [redacted]"
    assert redact("see http://testserver/artifacts/x") == "see [redacted]"
    assert redact("see http://elsewhere/artifacts/x") == "see http://elsewhere/artifacts/x"
    assert redactor(PREFIX, "http://testserver") is redactor(PREFIX, "http://testserver")


@pytest.fixture
def bucket(settings):
    """The artifact store that ``BASES`` lists the addresses of."""
    options = {
        "bucket_name": "pix",
        "endpoint_url": "http://minio.internal:9000",
        "region_name": "us-east-1",
        "access_key": "AKIA1",
        "secret_key": "secret",
    }
    store = {"BACKEND": "jobs.artifacts.s3.SignedS3Storage", "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"artifacts": store}
    settings.PUBLIC_BASE_URL = "https://jobs.example.com"


def test_a_bucket_is_recognised_at_its_endpoint_and_at_aws(bucket):
    assert sorted((*storages["artifacts"].base_urls, "https://jobs.example.com/artifacts/")) == sorted(BASES)


@pytest.mark.parametrize(
    "pattern",
    [
        "\\",
        "%25",
        "%",
        "/",
        "//",
        "%2",
        "%74",
        "%5C",
        "\\u0074",
        "\\u005c",
        "a.",
        "//a.",
        "//a@",
        ":1",
        "arn:aws",
        "/./",
        "%c3",
        "s3:",
        "'s3://",
        '"s3://"',
        '\\"',
        "\"'s3://",
        "http://",
        "s3.",
        "tenants",
        "\\u002f",
        "'",
    ],
)
@pytest.mark.parametrize("length", [50_000, pytest.param(200_000, marks=pytest.mark.full)])
def test_time_is_linear_in_the_length_of_the_text(pattern, length):
    text = "tenants s3 minio.internals " + pattern * (length // len(pattern))
    started = time.process_time()
    acmes.redact_text(text)
    # 0.05 to 0.3 for 200,000 on an idle machine; quadratic would take minutes, or ten seconds for 50,000.
    assert time.process_time() - started < 2 * length / 200_000


# --- Generated ----------------------------------------------------------------------------------------------------

# NUL, huge numbers and the like are refused on the way in.
plain = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
file_names = st.text(st.characters(codec="utf-8", exclude_characters="\0\"'`\\"), min_size=1, max_size=20)
leads = st.sampled_from(
    (
        "s3://pix/",
        "S3://other/",
        PREFIX,
        "https://pix.s3.eu-central-1.amazonaws.com/",
        "https://s3.amazonaws.com/pix/",
        "http://minio.internal:9000/pix/",
        "https://jobs.example.com/artifacts/",
        "//jobs.example.com/artifacts/",
    )
)
SECRET = "0secret0"  # in every reference and nowhere else: where it shows, a reference left


@st.composite
def references(draw):
    reference = draw(leads) + SECRET + draw(file_names)
    how = draw(st.sampled_from((None, None, "percent", "some letters")))
    if how == "percent":
        return quote(reference, safe="")
    if how == "some letters":
        end = reference.index(SECRET)
        encoded = draw(st.sets(st.integers(0, end - 1)))
        return "".join(f"%{ord(each):02X}" if n in encoded else each for n, each in enumerate(reference))
    return reference


@st.composite
def strings(draw):
    """Text with references in it, bare, quoted, or in JSON that is itself a string."""
    around = st.sampled_from(
        ("{}", '"{}"', "'{}'", "`{}`", "{} ", " {}\n", 'a "{}" b', 'a "b {} c" d', "json", "json2")
    )
    text = draw(plain.filter(lambda text: not set(text) & set("\"'`")))
    for _ in range(draw(st.integers(0, 3))):
        reference, how = draw(references()), draw(around)
        if how.startswith("json"):
            reference = json.dumps({"key": reference, "n": [reference]})
            text += json.dumps(reference) if how == "json2" else reference
        else:
            text += how.replace("{}", reference)
    return text


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | strings()
    | plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings() | plain, inner, max_size=4),
    max_leaves=12,
)


def shape(value):
    """Everything about a JSON value but its strings."""
    if isinstance(value, dict):
        return [shape(member) for member in value.values()]
    if isinstance(value, list):
        return ["list", *map(shape, value)]
    return str if isinstance(value, str) else value


@pytest.mark.sqlite  # no database is used: once is enough
@settings(deadline=None)
@given(values)
@example({"s3://0secret0": {"[redacted]": ["'tenants/acme/0secret0'"]}})
def test_references_are_redacted_and_nothing_else_changes(value):
    clean = acmes.redact_value(value)
    assert SECRET not in json.dumps(clean, ensure_ascii=False)
    assert shape(clean) == shape(value)
    assert acmes.redact_value(clean) is clean


@pytest.mark.sqlite  # no database is used: once is enough
@settings(deadline=None)
@given(values, st.lists(file_names.map(lambda name: PREFIX + name), max_size=3), st.booleans())
@example(["s\\u0033://0secret0"], [], False)
@example(["acme"], [f"{PREFIX}acme/acme.png"], False)
def test_strings_of_a_clean_document_hold_no_reference(value, storage_keys, is_ascii):
    document = json.dumps([storage_keys, value], ensure_ascii=is_ascii)
    if acmes.is_clean(document, storage_keys):
        assert acmes.redact_value(value) is value


@pytest.mark.parametrize("value", ["soft light", {"width": 1024, "prompt": "front/side, 100 %"}, ['\\ " \n'], None])
def test_a_document_without_references_is_clean_whatever_its_storage_keys(value):
    storage_keys = [f"{PREFIX}front.png", f"{PREFIX}acme/acme.png"]
    assert acmes.is_clean(json.dumps([storage_keys, value]), storage_keys)


@pytest.mark.parametrize(
    "written", ['"s3://pix/a"', '"tenants/acme/b"', r'"\u0073\u0033://pix/a"', '{"S3:\\/\\/a": 1}']
)
def test_a_document_with_a_reference_beside_its_storage_keys_is_not_clean(written):
    storage_keys = [f"{PREFIX}front.png"]
    document = f'[["{PREFIX}front.png"], {written}]'
    assert not acmes.is_clean(document, storage_keys)
    assert acmes.redact_value(json.loads(document)[1]) != json.loads(document)[1]


@pytest.mark.sqlite  # no database is used: once is enough
@settings(deadline=None)
@given(st.text(), st.text())
def test_redacted_text_is_not_changed_again(before, after):
    for text in (before, f"{before}s3://{after}", f'"{before}"tenants/acme/{after}"'):
        clean = acmes.redact_text(text)
        assert acmes.redact_text(clean) == clean
        assert "s3://" not in clean
        assert PREFIX not in clean


def test_deeply_nested_values_are_redacted():
    deep = '{"in": [' * 125 + '"s3://pix/a"' + "]}" * 125
    assert json.dumps(acmes.redact_value(json.loads(deep))) == deep.replace("s3://pix/a", "[redacted]")


def check_that_references_are_redacted(client, tenant, job_of, members, texts, references):
    """Two jobs, one of a workflow and one of two agents, with references in every free-form field there is."""
    artifact = {"storage_key": f"{PREFIX}front.png", "kind": "render", "role": "final", "label": texts[0]}
    event = {"created_at": "2026-04-15T12:00:00Z", "stage": texts[1], "message": texts[2], "extra": members[0]}
    said = {"error": references[0], "data": members[1], "changed": True}
    jobs = [
        job_of(
            tenant,
            request=members[2],
            events=[
                event | {"seq": 1, "event_type": "queued"},
                event | {"seq": 2, "event_type": "succeeded", "artifacts": [artifact | {"meta": members[3]}]},
            ],
        ),
        job_of(
            tenant,
            request=members[2],
            job_type="RESTART",
            events=[
                event | {"seq": 1, "event_type": "failed", "hostname": references[1], "extra": members[0] | said},
                event | {"seq": 2, "event_type": "completed", "hostname": "b", "extra": members[0] | said},
            ],
        ),
    ]
    answers = [client.get("/v1/jobs"), client.get("/job")]
    for job in jobs:
        answers += client.get(f"/v1/jobs/{job.public_id}"), client.get(f"/v1/jobs/{job.public_id}/events")
    for answer in answers:
        assert answer.status_code == 200
        assert SECRET.encode() not in answer.content


@contextmanager
def rolled_back():
    """One example's jobs are gone before the next."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


records = given(
    members=st.lists(st.dictionaries(strings() | plain, values, max_size=4), min_size=4, max_size=4),
    texts=st.lists(strings(), min_size=3, max_size=3),
    references=st.lists(references().filter(lambda text: len(text) <= 100), min_size=2, max_size=2, unique=True),
)
fixtures_may_be_shared = [HealthCheck.function_scoped_fixture]


@settings(max_examples=10, deadline=None, suppress_health_check=fixtures_may_be_shared)
@records
def test_no_response_holds_a_reference(bucket, acme_client, acme, job_of, record_property, members, texts, references):
    record_property("cases", 1)
    with rolled_back():
        check_that_references_are_redacted(acme_client, acme, job_of, members, texts, references)


@pytest.mark.full
@settings(max_examples=1000, deadline=None, suppress_health_check=fixtures_may_be_shared)
@records
def test_no_response_holds_a_reference_a_thousand_times(
    bucket, acme_client, acme, job_of, record_property, members, texts, references
):
    record_property("cases", 1)
    with rolled_back():
        check_that_references_are_redacted(acme_client, acme, job_of, members, texts, references)
