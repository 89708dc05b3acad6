"""The studio dialect over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobs.api.errors import JobNotFound
from jobs.api.etags import newest_version, shape_of
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
        shape = serializers.JobListResponseSerializer(context={"renderer": self.renderer})
        validator = self.validator(shape_of(type(shape)), rows, vars(params))
        if not_modified := self.not_modified(validator):
            return not_modified
        url = self.renderer.base_url + request.path
        link = paging.next_link(url, tenant_id, params.query(), params.limit, rows)
        return self.respond(shape.to_representation((rows, params)), {"ETag": validator, **link})

    @schema.get_job
    async def retrieve(self, request: GatewayRequest, public_id: str) -> ApiResponse:
        return await self.one_job(queries.DETAIL, serializers.JobDetailResponseSerializer, self.is_enough, public_id)

    @schema.list_job_events
    async def events(self, request: GatewayRequest, public_id: str) -> ApiResponse:
        # Parameters are checked before the id, so that an invalid one is 422 for every id.
        since = EventsParams.read(request.GET).since
        return await self.one_job(
            queries.EVENTS, serializers.JobEventsResponseSerializer, self.is_page, public_id, since=since
        )

    def is_enough(self, document: str | None) -> bool:
        """Whether the replica's row can be used: it exists, and is not older than the version that the client has."""
        if document is None:
            return False
        return queries.version_of(document) >= newest_version(self.request.META.get("HTTP_IF_NONE_MATCH", ""))

    def is_page(self, document: str | None) -> bool:
        """As :meth:`is_enough`, and it has events. Only the primary can say that there are no new events."""
        return document is not None and self.is_enough(document) and bool(queries.EventsRow.parse(document).events)

    async def one_job(
        self,
        query: PreparedQuery,
        serializer: type[serializers.OneJobSerializer],
        is_enough: Callable[[str | None], bool],
        public_id: str,
        **more: int,
    ) -> ApiResponse:
        """The response about one job. A poll reads the job's version first, and gets 304 without another read if it
        matches."""
        try:
            key: dict[str, Any] = {"tenant": self.caller.tenant_id, "public_id": parse_ulid(public_id), **more}
        except ValueError:
            raise JobNotFound from None
        asked = (shape_of(serializer), public_id.upper(), more)
        if self.is_poll:
            header = queries.Header.parse(found(await queries.VERSION.fetch_document(key, self.is_enough)))
            validator = self.validator(*asked, version=header.version)
            if not_modified := self.not_modified(validator, {"Job-Status": header.status}):
                return not_modified
        document = found(await query.fetch_document(key, is_enough))
        row = serializer.row.parse(document)
        renderer = self.renderer.for_document(document, serializer.artifact_rows(row))
        body = serializer(context={"renderer": renderer}).to_representation(row)
        validator = self.validator(*asked, version=row.version)
        return self.respond(body, {"ETag": validator, "Job-Status": row.status})


def found(document: str | None) -> str:
    """``document``. Raises JobNotFound for None: the tenant has no such job."""
    if document is None:
        raise JobNotFound
    return document
