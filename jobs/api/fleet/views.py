"""The fleet dialect over HTTP."""

from __future__ import annotations

from jobs.api.body_cache import Rendered
from jobs.api.fleet import queries, schema
from jobs.api.fleet.params import FleetListParams
from jobs.api.fleet.serializers import FleetJobListResponseSerializer
from jobs.api.rendering import to_json
from jobs.api.request import ApiRequest
from jobs.api.response import ApiResponse
from jobs.api.views import TenantViewSet
from jobs.models import Job


class FleetJobViewSet(TenantViewSet):
    queryset = Job.all_tenants.none()

    @schema.list_jobs
    async def list(self, request: ApiRequest) -> ApiResponse:
        params = FleetListParams.of(request)
        page = await queries.job_page(self.caller.tenant_id, params)
        renderer = self.renderer

        def render() -> Rendered:
            return Rendered(to_json(FleetJobListResponseSerializer.represent(page, params, renderer)))

        size = sum(map(len, page.documents))
        source = (tuple(page.status_counts.values()), page.documents, params.status)
        return ApiResponse(self.rendered(renderer, render, size, *source).body, {})
