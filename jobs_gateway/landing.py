"""The page at ``/``: what this is, the first request, and the way to documentation and admin."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.views.generic import TemplateView


class LandingPage(TemplateView):
    template_name = "landing.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        own = f"{self.request.scheme}://{self.request.get_host()}"
        return super().get_context_data(base_url=settings.PUBLIC_BASE_URL or own, **kwargs)
