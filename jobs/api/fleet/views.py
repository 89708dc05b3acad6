"""The fleet dialect over HTTP."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from jobs.api.fleet import queries, schema
from jobs.api.fleet.params import FleetListParams
from jobs.api.fleet.serializers import FleetJobListResponseSerializer
from jobs.api.views import TenantViewSet
from jobs.models import Job


class FleetJobViewSet(TenantViewSet):
    queryset = Job.all_tenants.none()

    @schema.list_jobs
    def list(self, request: HttpRequest) -> HttpResponse:
        params = FleetListParams.read(request.GET)
        page = queries.job_page(self.caller.tenant_id, params)
        shape = FleetJobListResponseSerializer(context={"renderer": self.boundary})
        return self.answer(shape.to_representation((page, params)))
