"""Every route of the gateway. ``jobs_gateway.middleware.ApiLane`` answers those that begin with ``/v1`` or ``/job``."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

from jobs_gateway.health import livez, readyz
from jobs_gateway.landing import LandingPage
from jobs_gateway.openapi import OpenApiView, redoc, swagger

urlpatterns: list[URLPattern | URLResolver] = [
    path("v1/openapi.json", OpenApiView.as_view(), name="openapi"),
    path("v1/", include("jobs.api.v1.urls")),
    path("", include("jobs.api.fleet.urls")),
    path("livez", livez, name="livez"),
    path("readyz", readyz, name="readyz"),
    path("", LandingPage.as_view(), name="landing"),
    path("docs", swagger, name="docs"),
    path("redoc", redoc, name="redoc"),
    path("admin/", admin.site.urls),
]
# Of the pages; the API writes its errors itself.
handler500 = "jobs_gateway.pages.server_error"
