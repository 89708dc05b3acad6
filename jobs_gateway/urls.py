"""Every route of the gateway. What begins with ``/v1`` or ``/job`` is answered by ``jobs_gateway.middleware.ApiLane``."""

from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [
    path("v1/", include("jobs.v1.urls")),
]
