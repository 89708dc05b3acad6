"""The studio dialect over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from jobs.api.errors import JobNotFound
from jobs.api.etags import newest_version
from jobs.api.request import GatewayRequest
from jobs.api.response import ApiResponse
from jobs.api.v1 import paging, queries, schema, serializers
from jobs.api.v1.params import EventsParams, ListParams
from jobs.api.views import TenantViewSet
from jobs.database.prepared import PreparedQuery
from jobs.models import Job
from jobs.ulid import parse_ulid


class JobViewSet(TenantViewSet):
    queryset = Job.all_tenants.none()

    @schema.list_jobs
    async def list(self, request: GatewayRequest) -> ApiResponse:
        tenant_id = self.caller.tenant_id
        params = ListParams.read(request.GET, tenant_id)
        rows = await queries.job_page(tenant_id, params)
        validator = self.validator(rows, vars(params))
        if not_modified := self.not_modified(validator):
            return not_modified
        body = serializers.JobListResponseSerializer.body(rows, params)
        url = self.renderer.base_url + request.path
        link = paging.next_link(url, tenant_id, params.filters, params.limit, rows)
        return self.respond(body, ETag=validator, **link)

    @schema.get_job
    async def retrieve(self, request: GatewayRequest, public_id: str) -> ApiResponse:
        return await self.one_job(queries.DETAIL, serializers.JobDetailResponseSerializer, self.is_enough, public_id)

    @schema.list_job_events
    async def events(self, request: GatewayRequest, public_id: str) -> ApiResponse:
        # The parameters come before the id, so that a bad one is told for every id alike.
        since = EventsParams.read(request.GET).since
        return await self.one_job(
            queries.EVENTS, serializers.JobEventsResponseSerializer, self.is_page, public_id, since=since
        )

    def is_enough(self, document: str | None) -> bool:
        """Whether a replica's row will do: it is there, and no older than what the caller has seen."""
        if document is None:
            return False
        version: int = orjson.loads(document)[0]
        return version >= newest_version(self.request.META.get("HTTP_IF_NONE_MATCH", ""))

    def is_page(self, document: str | None) -> bool:
        """Whether it has events for the caller, too: that there are no more only the primary can say."""
        return document is not None and self.is_enough(document) and bool(orjson.loads(document)[-1])

    async def one_job(
        self,
        query: PreparedQuery,
        shape: type[serializers.AboutOneJob],
        is_enough: Callable[[str | None], bool],
        public_id: str,
        **more: int,
    ) -> ApiResponse:
        """The answer about one job; a poll that still holds is told from the job's header row alone."""
        try:
            key: dict[str, Any] = {"tenant": self.caller.tenant_id, "public_id": parse_ulid(public_id), **more}
        except ValueError:
            raise JobNotFound from None
        asked = (shape.__name__, public_id.upper(), more)
        if self.is_poll:
            (version,) = orjson.loads(found(await queries.VERSION.fetch_document(key, self.is_enough)))
            if not_modified := self.not_modified(self.validator(*asked, version=version)):
                return not_modified
        document = found(await query.fetch_document(key, is_enough))
        version, *row = orjson.loads(document)
        body = shape.body(self.renderer.for_document(document, shape.artifacts(*row)), *row)
        return self.respond(body, ETag=self.validator(*asked, version=version))


def found(document: str | None) -> str:
    """The document, which there is only of a job of the tenant's own. Raises JobNotFound."""
    if document is None:
        raise JobNotFound
    return document
