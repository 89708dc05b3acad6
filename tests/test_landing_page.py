"""The page at ``/``."""

from __future__ import annotations

import re


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
