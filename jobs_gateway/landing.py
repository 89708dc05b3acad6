"""The page at ``/``: what this is, the first request, and the way to documentation and admin.

In a trial (`manage.py serve --demo`) it also shows the demo tenant's jobs, live: ``static/gateway/live.js`` reads them
from the API, as any other client. docs/security.md describes where its token comes from.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.generic import TemplateView

from jobs.demo.access import page_token


class LandingPage(TemplateView):
    template_name = "landing.html"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        token = page_token()
        context = self.get_context_data(token=token, **kwargs)
        if token is None:
            return self.render_to_response(context)
        self.template_name = "live.html"
        return self.render_to_response(context, headers={"Cache-Control": "no-store"})

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        own = f"{self.request.scheme}://{self.request.get_host()}"
        return super().get_context_data(base_url=settings.PUBLIC_BASE_URL or own, **kwargs)
