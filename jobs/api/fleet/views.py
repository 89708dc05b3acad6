"""The fleet dialect over HTTP."""

from __future__ import annotations

from jobs.api.fleet import queries, schema
from jobs.api.fleet.params import FleetListParams
from jobs.api.fleet.serializers import FleetJobListResponseSerializer
from jobs.api.request import GatewayRequest
from jobs.api.response import ApiResponse
from jobs.api.views import TenantViewSet
from jobs.models import Job


class FleetJobViewSet(TenantViewSet):
    queryset = Job.all_tenants.none()

    @schema.list_jobs
    async def list(self, request: GatewayRequest) -> ApiResponse:
        params = FleetListParams.read(request.GET)
        page = await queries.job_page(self.caller.tenant_id, params)
        shape = FleetJobListResponseSerializer(context={"renderer": self.renderer})
        return self.respond(shape.to_representation((page, params)))
