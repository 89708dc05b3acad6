"""System checks of the settings of artifacts."""

import pytest
from django.core import checks


def ids():
    return {message.id for message in checks.run_checks() if message.id and message.id.startswith("jobs.E00")}


@pytest.mark.parametrize("ttl_seconds", [0, -1, 604_801])
def test_a_lifetime_outside_the_limits_is_an_error(settings, ttl_seconds):
    settings.PRESIGN_TTL_SECONDS = ttl_seconds
    assert ids() == {"jobs.E001"}


@pytest.mark.parametrize("address", ["jobs.example.com", "ftp://jobs.example.com", "https://", "https://a.example?b=c"])
def test_an_invalid_public_base_url_is_an_error(settings, address):
    settings.PUBLIC_BASE_URL = address
    assert ids() == {"jobs.E002"}


@pytest.mark.parametrize("address", ["", "https://jobs.example.com", "http://127.0.0.1:8000/gateway"])
@pytest.mark.parametrize("ttl_seconds", [1, 900, 604_800])
def test_valid_settings_give_no_errors(settings, ttl_seconds, address):
    settings.PRESIGN_TTL_SECONDS, settings.PUBLIC_BASE_URL = ttl_seconds, address
    assert ids() == set()
