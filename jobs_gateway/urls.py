"""The routes of the API and of Django's pages; ``jobs_gateway.application.Router`` has the others."""

from django.contrib import admin
from django.http import Http404
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.views import defaults

from jobs_gateway.landing import LandingPage
from jobs_gateway.openapi import openapi_document, redoc, swagger

admin.autodiscover()

urlpatterns: list[URLPattern | URLResolver] = [
    path("v1/openapi.json", openapi_document, name="openapi"),  # type: ignore[arg-type]  # the API calls it
    path("v1/", include("jobs.api.v1.urls")),
    path("", include("jobs.api.fleet.urls")),
    path("", LandingPage.as_view(), name="landing"),
    path("docs", swagger, name="docs"),
    path("redoc", redoc, name="redoc"),
    # Django's “view on site” is not used here, and some ids in its URL cause a server error.
    re_path("^admin/r/", defaults.page_not_found, {"exception": Http404()}),
    path("admin/", admin.site.urls),
]
# Of the pages; the API writes its errors itself.
handler500 = "jobs_gateway.pages.server_error"
