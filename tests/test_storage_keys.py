"""What a storage key may be, by the one rule that the way in and the signer share."""

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
def test_the_refusal_says_which_rule_was_broken_and_not_what_the_key_was(key, rule):
    with pytest.raises(ValueError, match=rule) as refused:
        check_storage_key(key, PREFIX)
    assert len(key) < 3 or key not in str(refused.value)


def test_an_empty_prefix_turns_only_the_prefix_check_off():
    check_storage_key("anywhere/front.png", "")
    with pytest.raises(ValueError, match="as a segment"):
        check_storage_key("anywhere/../front.png", "")


@given(st.text())
def test_what_passes_can_be_spelled_in_a_url_and_stays_below_its_root(key):
    try:
        check_storage_key(key, "")
    except ValueError:
        return
    assert key.encode()
    assert key[0] != "/"
    assert not {".", ".."} & set(key.split("/"))
