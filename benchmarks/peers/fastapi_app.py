"""The peer a user would write: FastAPI, SQLAlchemy 2 async over asyncpg, pydantic, boto3 presigning.

Tuned as their documentation advises: uvloop and httptools, a pool, eager loading, statements that both statement caches
keep, orjson for JSON columns, and response models that pydantic writes to JSON itself.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import boto3
import orjson
from botocore.config import Config
from fastapi import Depends, FastAPI, Header, HTTPException, Query
from pydantic import BaseModel, ConfigDict
from sqlalchemy import DateTime, ForeignKey, and_, literal, select, tuple_
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    contains_eager,
    foreign,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
)
from ulid import ULID

from benchmarks.peers.fleet import FLEET_STATUS, item

engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgres://", "postgresql+asyncpg://"),
    pool_size=10,
    json_deserializer=orjson.loads,
    isolation_level="AUTOCOMMIT",  # reads only: no BEGIN and ROLLBACK around each request
)
Session = async_sessionmaker(engine, expire_on_commit=False)
bucket = os.environ["AWS_STORAGE_BUCKET_NAME"]
s3 = boto3.client(
    "s3",
    endpoint_url=os.environ["AWS_S3_ENDPOINT_URL"],
    region_name="us-east-1",
    config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
)


# --- Tables -------------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSONB, datetime: DateTime(timezone=True)}


class Tenant(Base):
    __tablename__ = "tenants_tenant"
    id: Mapped[int] = mapped_column(primary_key=True)
    is_active: Mapped[bool]


class ApiToken(Base):
    __tablename__ = "tenants_apitoken"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants_tenant.id"))
    prefix: Mapped[str]
    token_hash: Mapped[str]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    tenant: Mapped[Tenant] = relationship()


class Artifact(Base):
    __tablename__ = "jobs_artifact"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs_job.public_id"))
    event_id: Mapped[int | None] = mapped_column(ForeignKey("jobs_jobevent.id"))
    position: Mapped[int]
    storage_key: Mapped[str]
    kind: Mapped[str]
    role: Mapped[str]
    label: Mapped[str | None]
    meta: Mapped[dict[str, Any]]
    event: Mapped[JobEvent | None] = relationship(back_populates="artifacts")


class JobEvent(Base):
    __tablename__ = "jobs_jobevent"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs_job.public_id"))
    seq: Mapped[int]
    event_type: Mapped[str]
    visibility: Mapped[str]
    stage: Mapped[str | None]
    message: Mapped[str]
    hostname: Mapped[str | None]
    extra: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    artifacts: Mapped[list[Artifact]] = relationship(back_populates="event", order_by=Artifact.position)


class Job(Base):
    __tablename__ = "jobs_job"
    public_id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[int]
    job_type: Mapped[str]
    status: Mapped[str]
    v1_status: Mapped[str]
    is_workflow: Mapped[bool]
    created_at: Mapped[datetime]
    request: Mapped[dict[str, Any] | None]
    last_public_seq: Mapped[int]
    events: Mapped[list[JobEvent]] = relationship(order_by=JobEvent.seq, viewonly=True)
    latest_event: Mapped[JobEvent | None] = relationship(
        primaryjoin=lambda: and_(Job.public_id == foreign(JobEvent.job_id), JobEvent.seq == Job.last_public_seq),
        uselist=False,
        viewonly=True,
    )
    finals: Mapped[list[Artifact]] = relationship(
        primaryjoin=lambda: and_(Job.public_id == foreign(Artifact.job_id), Artifact.role == "final"), viewonly=True
    )


class JobCounts(Base):
    __tablename__ = "jobs_jobcounts"
    tenant_id: Mapped[int] = mapped_column(primary_key=True)
    not_started: Mapped[int]
    in_progress: Mapped[int]
    success: Mapped[int]
    failure: Mapped[int]
    partial_failure: Mapped[int]


# --- Responses ----------------------------------------------------------------------------------------------------


class ArtifactResponse(BaseModel):
    image_url: str
    kind: str
    role: str
    label: str | None
    meta: dict[str, Any]


class JobEventResponse(BaseModel):
    seq: int
    event_type: str
    visibility: str
    stage: str | None
    message: str
    artifacts: list[ArtifactResponse]
    extra: dict[str, Any]
    created_at: datetime


class JobSummaryResponse(BaseModel):
    public_id: str
    job_type: str
    status: str
    created_at: datetime


class JobListResponse(BaseModel):
    jobs: list[JobSummaryResponse]
    limit: int
    offset: int
    count: int


class JobDetailResponse(JobSummaryResponse):
    request: dict[str, Any] | None
    result: list[ArtifactResponse]
    latest_event: JobEventResponse | None


class JobEventsResponse(BaseModel):
    public_id: str
    events: list[JobEventResponse]
    latest_seq: int | None


class FleetJobResponse(BaseModel):
    model_config = ConfigDict(extra="allow")  # members that are left out if they are empty
    id: str
    status: str
    created: datetime
    operation: dict[str, Any]
    result: Any
    changed: bool | None
    updated_at: datetime
    responses: dict[str, Any]
    agent_states: dict[str, Any]
    timeline: list[dict[str, Any]]


class FleetJobListResponse(BaseModel):
    total_items: int
    status_counts: dict[str, int]
    items: list[FleetJobResponse]


def artifact_response(artifact: Artifact) -> ArtifactResponse:
    url = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": artifact.storage_key}, ExpiresIn=900)
    return ArtifactResponse(
        image_url=url, kind=artifact.kind, role=artifact.role, label=artifact.label, meta=artifact.meta
    )


def event_response(event: JobEvent) -> JobEventResponse:
    return JobEventResponse(
        seq=event.seq,
        event_type=event.event_type,
        visibility=event.visibility,
        stage=event.stage,
        message=event.message,
        artifacts=[artifact_response(artifact) for artifact in event.artifacts],
        extra=event.extra,
        created_at=event.created_at,
    )


# --- Routes -------------------------------------------------------------------------------------------------------

app = FastAPI()


async def session() -> AsyncIterator[AsyncSession]:
    async with Session() as opened:
        yield opened


Database = Annotated[AsyncSession, Depends(session)]


async def tenant_id(database: Database, authorization: Annotated[str, Header()] = "") -> int:
    token = authorization.removeprefix("Bearer ")
    prefix = token.split("_")[1] if token.count("_") > 1 else ""
    row = await database.scalar(
        select(ApiToken).where(ApiToken.prefix == prefix).options(joinedload(ApiToken.tenant, innerjoin=True))
    )
    known = row and hmac.compare_digest(row.token_hash, hashlib.sha256(token.encode()).hexdigest())
    if row is None or not known or row.revoked_at or not row.tenant.is_active:
        raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})
    if row.expires_at and row.expires_at <= datetime.now(UTC):
        raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})
    return row.tenant_id


TenantId = Annotated[int, Depends(tenant_id)]
Limit = Annotated[int, Query(ge=1, le=200)]


def uuid_of(public_id: str) -> UUID:
    try:
        return ULID.from_str(public_id).to_uuid()
    except ValueError:
        raise HTTPException(404) from None


@app.get("/v1/jobs")
async def list_jobs(
    database: Database,
    tenant: TenantId,
    limit: Limit = 50,
    created_after: datetime | None = None,
    before: datetime | None = None,  # with before_id: the last job of the page before
    before_id: str = "",
) -> JobListResponse:
    statement = select(Job.public_id, Job.job_type, Job.v1_status, Job.created_at).where(
        Job.tenant_id == tenant, Job.is_workflow
    )
    if created_after:
        statement = statement.where(Job.created_at > created_after)
    if before:
        last = tuple_(literal(before), literal(uuid_of(before_id)))
        statement = statement.where(tuple_(Job.created_at, Job.public_id) < last)
    jobs = await database.execute(statement.order_by(Job.created_at.desc(), Job.public_id.desc()).limit(limit))
    page = [
        JobSummaryResponse(
            public_id=str(ULID.from_uuid(public_id)), job_type=job_type, status=status, created_at=created_at
        )
        for public_id, job_type, status, created_at in jobs
    ]
    return JobListResponse(jobs=page, limit=limit, offset=0, count=len(page))


@app.get("/v1/jobs/{public_id}")
async def get_job(public_id: str, database: Database, tenant: TenantId) -> JobDetailResponse:
    job = await database.scalar(
        select(Job)
        .where(Job.public_id == uuid_of(public_id), Job.tenant_id == tenant)
        .options(
            joinedload(Job.latest_event).selectinload(JobEvent.artifacts),
            selectinload(Job.finals).joinedload(Artifact.event),
        )
    )
    if job is None:
        raise HTTPException(404)
    return JobDetailResponse(
        public_id=str(ULID.from_uuid(job.public_id)),
        job_type=job.job_type,
        status=job.v1_status,
        created_at=job.created_at,
        request=job.request,
        result=[artifact_response(final) for final in in_order(job.finals)] if job.v1_status == "SUCCESS" else [],
        latest_event=event_response(job.latest_event) if job.latest_event else None,
    )


@app.get("/v1/jobs/{public_id}/events")
async def list_events(public_id: str, database: Database, tenant: TenantId, since: int = 0) -> JobEventsResponse:
    # One statement for the job and its events, one for their artifacts.
    shown = and_(JobEvent.seq > since, JobEvent.visibility == "public")
    jobs = await database.scalars(
        select(Job)
        .outerjoin(JobEvent, and_(JobEvent.job_id == Job.public_id, shown))
        .where(Job.public_id == uuid_of(public_id), Job.tenant_id == tenant)
        .order_by(JobEvent.seq)
        .options(contains_eager(Job.events).selectinload(JobEvent.artifacts))
    )
    job = jobs.unique().one_or_none()
    if job is None:
        raise HTTPException(404)
    page = job.events[:500]
    return JobEventsResponse(
        public_id=str(ULID.from_uuid(job.public_id)),
        events=[event_response(event) for event in page],
        latest_seq=page[-1].seq if page else job.last_public_seq or None,
    )


@app.get("/job")
async def list_fleet(database: Database, tenant: TenantId) -> FleetJobListResponse:
    counts = await database.get_one(JobCounts, tenant)
    by_status = {shown: getattr(counts, stored.lower()) for stored, shown in FLEET_STATUS.items()}
    jobs = await database.scalars(
        select(Job)
        .where(Job.tenant_id == tenant)
        .order_by(Job.created_at.desc(), Job.public_id.desc())
        .limit(10)
        .options(selectinload(Job.events), selectinload(Job.finals).joinedload(Artifact.event))
    )
    items = [fleet_job(job) for job in jobs]
    return FleetJobListResponse(total_items=sum(by_status.values()), status_counts=by_status, items=items)


def fleet_job(job: Job) -> FleetJobResponse:
    pictures = [artifact_response(final) for final in in_order(job.finals)] if job.status == "SUCCESS" else []
    fields = item(job.public_id, job.job_type, job.status, job.created_at, job.request, job.events, pictures)
    return FleetJobResponse.model_validate(fields)


def in_order(finals: list[Artifact]) -> list[Artifact]:
    return sorted(finals, key=lambda final: (final.event is None, final.event and final.event.seq, final.position))
