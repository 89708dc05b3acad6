"""``tenants.fast_settings`` returns current values, and a request reads no setting through Django's proxy."""

from __future__ import annotations

from itertools import product

import pytest
from django.conf import settings as django_settings
from django.test import override_settings
from django.utils.functional import LazyObject

from jobs.api import views
from tenants.fast_settings import settings as fast_settings

pytestmark = pytest.mark.sqlite  # of the process, not of the database


def test_a_changed_setting_is_read(settings):
    before = fast_settings.TOKEN_CACHE_SECONDS
    with override_settings(TOKEN_CACHE_SECONDS=before + 1):
        now = fast_settings.TOKEN_CACHE_SECONDS
        assert now == django_settings.TOKEN_CACHE_SECONDS == before + 1
    assert fast_settings.TOKEN_CACHE_SECONDS == django_settings.TOKEN_CACHE_SECONDS == before
    settings.TOKEN_CACHE_SECONDS = before + 2
    now = fast_settings.TOKEN_CACHE_SECONDS
    assert now == django_settings.TOKEN_CACHE_SECONDS == before + 2


def test_a_setting_that_does_not_exist_is_an_error():
    with pytest.raises(AttributeError, match="NO_SUCH_SETTING"):
        fast_settings.NO_SUCH_SETTING  # noqa: B018


@pytest.mark.parametrize(
    ("path", "poll"),
    [*product(("/v1/jobs", "/v1/jobs/{}", "/v1/jobs/{}/events"), (False, True)), ("/job", False)],
)
def test_a_request_reads_none_through_the_proxy(path, poll, acme, acme_client, job_of, monkeypatch):
    path = path.format(job_of(acme).public_id)
    first = acme_client.get(path)  # fills caches
    headers = {"If-None-Match": first["ETag"]} if poll else {}
    read, original, serve = [], LazyObject.__getattribute__, views.serve_api_request

    def counted(self, name):
        if self is django_settings and name.isupper() and name != "DEBUG":  # which the connection of tests reads
            read.append(name)
        return original(self, name)

    async def serve_counted(request):
        with monkeypatch.context() as patch:
            patch.setattr(LazyObject, "__getattribute__", counted)
            return await serve(request)

    monkeypatch.setattr(views, "serve_api_request", serve_counted)
    assert acme_client.get(path, headers=headers).status_code == (304 if poll else 200)
    assert read == []
