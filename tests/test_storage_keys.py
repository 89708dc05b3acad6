"""Which storage keys are valid: one rule for ingest and for the signer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.artifacts.storage_keys import check_storage_key

PREFIX = "tenants/acme/"


@pytest.mark.parametrize(
    "key",
    [
        "tenants/acme/01JADE/front.png",
        "tenants/acme/ein Bild/straße 1+1.png",
        "tenants/acme/..front..png",
        "tenants/acme/.../front.png",
        "tenants/acme/.hidden/.front.png",
        "tenants/acme/front.",
        "tenants/acme/a//b.png",
        "tenants/acme/%2e%2e/front.png",
        "tenants/acme/..\\front.png",
        "tenants/acme/\U0001f457?#&=\"'\n.png",
    ],
)
def test_a_key_below_the_prefix_passes_whatever_its_characters(key):
    check_storage_key(key, PREFIX)


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("", "empty"),
        ("tenants/acme/a\0b.png", "NUL"),
        ("/tenants/acme/front.png", "starts with “/”"),
        ("/", "starts with “/”"),
        ("..", "“.” or “..” as a segment"),
        ("../globex/front.png", "“.” or “..” as a segment"),
        ("tenants/acme/../globex/front.png", "“.” or “..” as a segment"),
        (".", "“.” or “..” as a segment"),
        ("./tenants/acme/front.png", "“.” or “..” as a segment"),
        ("tenants/acme/./front.png", "“.” or “..” as a segment"),
        ("tenants/acme/.", "“.” or “..” as a segment"),
        ("tenants/acme/..", "“.” or “..” as a segment"),
        ("tenants/acme/\ud800.png", "lone surrogate"),
        ("tenants/globex/front.png", "outside the tenant's storage prefix"),
        ("tenants/acme-2/front.png", "outside the tenant's storage prefix"),
        ("Tenants/acme/front.png", "outside the tenant's storage prefix"),
        ("tenants/acme", "outside the tenant's storage prefix"),
    ],
)
def test_an_invalid_key_is_rejected_with_the_rule_and_without_the_key(key, rule):
    with pytest.raises(ValueError, match=rule) as refused:
        check_storage_key(key, PREFIX)
    assert len(key) < 3 or key not in str(refused.value)


def test_an_empty_prefix_turns_only_the_prefix_check_off():
    check_storage_key("anywhere/front.png", "")
    with pytest.raises(ValueError, match="as a segment"):
        check_storage_key("anywhere/../front.png", "")


@given(st.text())
def test_a_valid_key_can_be_part_of_a_url(key):
    try:
        check_storage_key(key, "")
    except ValueError:
        return
    assert key.encode()
    assert key[0] != "/"
    assert not {".", ".."} & set(key.split("/"))
