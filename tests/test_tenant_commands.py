"""create_tenant, issue_token, revoke_token: their options and their output."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command, load_command_class
from django.core.management.base import CommandError
from django.utils import timezone

from tenants.callers import Caller
from tenants.models import ApiToken, Tenant
from tests.client import verified


def run(command, *arguments):
    """Standard output and standard error of ``manage.py command …``, as lines."""
    out, err = StringIO(), StringIO()
    call_command(command, *arguments, stdout=out, stderr=err)
    return out.getvalue().splitlines(), err.getvalue().splitlines()


def test_create_tenant_makes_a_tenant_and_says_what_comes_next(db):
    out, err = run("create_tenant", "acme", "--name", "Acme Ltd", "--shop", "acme.myshopify.com")

    acme = Tenant.objects.get()
    assert (acme.slug, acme.name, acme.shop_domain) == ("acme", "Acme Ltd", "acme.myshopify.com")
    assert (acme.storage_prefix, acme.is_active) == ("tenants/acme/", True)
    assert out == [
        "Created tenant acme. The prefix of its artifacts is “tenants/acme/”.",
        "Next: manage.py issue_token acme",
    ]
    assert err == []


def test_create_tenant_needs_no_more_than_a_slug(db):
    run("create_tenant", "acme")
    run("create_tenant", "globex")
    assert list(Tenant.objects.values_list("slug", "name", "shop_domain")) == [("acme", "", None), ("globex", "", None)]


def test_create_tenant_takes_a_storage_prefix_and_an_empty_one_on_purpose(db):
    run("create_tenant", "acme", "--storage-prefix", "studio/acme/")
    run("create_tenant", "globex", "--storage-prefix", "")
    assert list(Tenant.objects.values_list("storage_prefix", flat=True)) == ["studio/acme/", ""]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["acme"], "slug: Tenant with this Slug already exists."),
        (["no spaces"], "slug: Enter a valid “slug”"),
        ([""], "slug: This field cannot be blank."),
        (["x" * 64], "slug: Ensure this value has at most 63 characters"),
        (["other", "--shop", "acme.myshopify.com"], "shop_domain: Tenant with this Shop domain already exists."),
        (["other", "--shop", "Other.myshopify.com"], "shop_domain: “Other.myshopify.com” is not a host name in lower"),
        (
            ["other", "--shop", "https://other.myshopify.com"],
            "shop_domain: “https://other.myshopify.com” is not a host",
        ),
        (["other", "--shop", "other"], "shop_domain: “other” is not a host name"),
        (["other", "--shop=-other.com"], "shop_domain: “-other.com” is not a host name"),
        (["other", "--storage-prefix", "tenants/acme/x/"], "overlaps the prefix “tenants/acme/” of tenant acme."),
        (["other", "--storage-prefix", "tenants/"], "overlaps the prefix “tenants/acme/” of tenant acme."),
        (["other", "--storage-prefix", "tenants/other"], "storage_prefix: A storage prefix is a folder path"),
        (["other", "--storage-prefix", "/tenants/other/"], "storage_prefix: A storage prefix is a folder path"),
        (["other", "--storage-prefix", "tenants/../other/"], "storage_prefix: A storage prefix is a folder path"),
    ],
)
def test_create_tenant_says_what_is_wrong_and_makes_nothing(arguments, reason, acme):
    with pytest.raises(CommandError) as refusal:
        run("create_tenant", *arguments)
    assert str(refusal.value).startswith("No tenant was created. ")
    assert reason in str(refusal.value)
    assert list(Tenant.objects.all()) == [acme]


def test_issue_token_prints_the_token_alone_as_the_last_line(acme):
    out, err = run("issue_token", "acme", "--label", "build server")

    assert len(out) == 1
    row = ApiToken.objects.get()
    assert verified(out[0]) == Caller(acme.pk, "acme", "tenants/acme/", row.prefix)
    assert (row.label, row.expires_at) == ("build server", None)
    assert err == ["A token of tenant acme. Keep it: it cannot be shown again."]


def test_issue_token_can_expire(acme):
    (token,), (note,) = run("issue_token", "acme", "--expires-in", "90")

    expires_at = ApiToken.objects.get().expires_at
    assert expires_at
    assert abs(expires_at - timezone.now() - timedelta(days=90)) < timedelta(minutes=1)
    assert f"valid until {expires_at:%Y-%m-%d %H:%M} UTC" in note
    assert verified(token)


@pytest.mark.parametrize("days", ["0", "-1", "1.5", "soon", "", "9999999", "9" * 100])
def test_issue_token_takes_days_from_one_up(days, acme):
    with pytest.raises(CommandError, match="not a number of days from 1 up"):
        run("issue_token", "acme", f"--expires-in={days}")
    assert not ApiToken.objects.exists()


def test_issue_token_says_so_when_the_tenant_is_not_active(acme):
    Tenant.objects.update(is_active=False)
    (token,), err = run("issue_token", "acme")
    assert err[-1] == "Tenant acme is not active. The token is rejected until the tenant is active."
    assert verified(token) is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["globex"], "No tenant “globex”. Create it with: manage.py create_tenant globex"),
        (["acme", "--label", "x" * 201], "No token was issued. Ensure this value has at most 200 characters"),
    ],
)
def test_issue_token_says_what_is_wrong_and_issues_nothing(arguments, reason, acme):
    with pytest.raises(CommandError) as refusal:
        run("issue_token", *arguments)
    assert str(refusal.value).startswith(reason)
    assert not ApiToken.objects.exists()


@pytest.mark.parametrize("spelling", ["{prefix}", "jgw_{prefix}", "{token}"])
def test_revoke_token_takes_the_prefix_however_it_was_copied(spelling, acme_token):
    prefix = acme_token.split("_")[1]
    out, err = run("revoke_token", spelling.format(prefix=prefix, token=acme_token))
    assert (out, err) == ([f"Revoked jgw_{prefix}. A running gateway refuses it within 1 s."], [])
    assert verified(acme_token) is None


def test_revoke_token_twice_is_no_mistake(acme_token):
    prefix = acme_token.split("_")[1]
    run("revoke_token", prefix)
    assert run("revoke_token", prefix) == ([f"jgw_{prefix} was revoked before; nothing changed."], [])


def test_revoke_token_says_when_there_is_none(acme_token):
    with pytest.raises(CommandError, match=r"^No token with the prefix jgw_unknown\. Nothing was revoked\.$"):
        run("revoke_token", "unknown")
    assert verified(acme_token)


@pytest.mark.parametrize("command", ["create_tenant", "issue_token", "revoke_token"])
def test_every_help_ends_with_an_example(command):
    help_text = load_command_class("tenants", command).create_parser("manage.py", command).format_help()
    assert help_text.rstrip().splitlines()[-1].startswith(f"Example: manage.py {command} ")
