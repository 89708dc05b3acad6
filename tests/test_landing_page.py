"""The page at ``/``."""

from __future__ import annotations

import json
import os
import re

import pytest

from jobs.demo.access import PAGE_VARIABLE, demo_access
from tenants import tokens
from tenants.models import Tenant
from tests.leak_checks import watch


def test_it_leads_to_the_documentation_the_console_and_a_first_request(client):
    page = client.get("/").content.decode()
    for href in ("/docs", "/redoc", "/v1/openapi.json", "/admin/", "#first-request"):
        assert f'href="{href}"' in page
    assert "curl http://testserver/v1/jobs" in page


def test_its_first_request_uses_the_public_address(client, settings):
    settings.PUBLIC_BASE_URL = "https://jobs.example.com"
    assert "curl https://jobs.example.com/v1/jobs" in client.get("/").content.decode()


def test_everything_on_it_comes_from_this_host_and_nothing_is_inline(client):
    page = client.get("/").content.decode()
    assert re.findall(r"<script|<style|style=|\son\w+=", page) == []
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert [address for address in addresses if not address.startswith(("/", "#"))] == []


def test_what_it_shows_is_there(client):
    for address in re.findall(r'(?:src|href)="(/static/[^"]*)"', client.get("/").content.decode()):
        answer = client.get(address)
        assert (answer.status_code, len(answer.content) > 0) == (200, True), address


# --- In a trial ---------------------------------------------------------------------------------------------------


@pytest.fixture
def demo(db, settings, tmp_path):
    settings.DATA_DIR = tmp_path
    return Tenant.objects.create(slug="demo")


@pytest.fixture
def demo_token(demo):
    return demo_access().token


@pytest.fixture
def worker_of_a_trial(monkeypatch):
    """This process is a worker of the server that `manage.py serve --demo` has become."""
    monkeypatch.setenv(PAGE_VARIABLE, str(os.getppid()))


def is_live(response):
    page = response.content.decode()
    assert response.status_code == 200
    assert ("jgw_" in page) == ("data-token" in page) == ("live.js" in page)
    return "data-token" in page


def test_in_a_trial_it_holds_the_token_of_the_demo_and_is_not_cached(client, demo_token, worker_of_a_trial):
    response = client.get("/")
    assert is_live(response)
    assert re.findall("jgw_[\\w-]+", response.content.decode()) == [demo_token]
    assert response.headers["Cache-Control"] == "no-store"
    watch.secrets.discard(demo_token.split("_", 2)[2])  # this page is the one place for it


def test_in_a_trial_nothing_is_inline_and_the_policy_is_that_of_the_plain_page(
    client, demo_token, worker_of_a_trial, monkeypatch
):
    response = client.get("/")
    watch.secrets.discard(demo_token.split("_", 2)[2])
    page = response.content.decode()
    assert re.findall(r"<script(?! src=)|<style|style=|\son\w+=", page) == []
    assert [each for each in re.findall(r'(?:src|href)="([^"]*)"', page) if not each.startswith(("/", "#"))] == []
    monkeypatch.delenv(PAGE_VARIABLE)
    policies = [each.headers["Content-Security-Policy"] for each in (response, client.get("/"))]
    assert len({frozenset(policy.split("; ")) for policy in policies}) == 1
    assert "unsafe" not in policies[0]


@pytest.mark.parametrize("process", ["", "1", "0", "its own"])
def test_a_process_that_only_has_the_variable_shows_the_plain_page(client, demo_token, monkeypatch, process):
    plain = client.get("/")
    monkeypatch.setenv(PAGE_VARIABLE, str(os.getpid()) if process == "its own" else process)
    response = client.get("/")
    assert not is_live(response)
    assert response.content == plain.content
    assert "Cache-Control" not in response.headers


def test_a_token_of_another_tenant_is_never_on_it(client, demo, acme_token, worker_of_a_trial, tmp_path):
    (tmp_path / "demo.json").write_text(json.dumps({"token": acme_token, "password": ""}))
    assert not is_live(client.get("/"))


def test_a_token_that_was_revoked_is_not_on_it(client, demo_token, worker_of_a_trial):
    tokens.revoke(demo_token.split("_")[1])
    assert not is_live(client.get("/"))


@pytest.mark.parametrize("saved", [None, "", "{}", '{"token": "", "password": ""}', "[1]"])
def test_without_a_saved_token_it_is_the_plain_page_and_nothing_is_issued(
    client, demo, worker_of_a_trial, tmp_path, saved
):
    if saved is not None:
        (tmp_path / "demo.json").write_text(saved)
    assert not is_live(client.get("/"))
    assert not demo.tokens.exists()
