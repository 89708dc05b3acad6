"""The fleet dialect over HTTP."""

from __future__ import annotations

from django.http import HttpResponse
from rest_framework.request import Request

from jobs.egress import errors
from jobs.egress.views import TenantViewSet
from jobs.fleet import queries, schema
from jobs.fleet.params import FleetListParams
from jobs.fleet.serializers import FleetJobListResponseSerializer
from jobs.models import Job


class FleetJobViewSet(TenantViewSet):
    queryset = Job.all_tenants.none()
    dialect = errors.FLEET

    @schema.list_jobs
    def list(self, request: Request) -> HttpResponse:
        params = FleetListParams.read(request.query_params)
        page = queries.job_page(self.caller.tenant_id, params)
        shape = FleetJobListResponseSerializer(context={"boundary": self.boundary})
        return self.answer(shape.to_representation((page, params)))
