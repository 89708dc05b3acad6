"""What the methods return: the generated models, with pictures that can be downloaded and events that have cursors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import datetime
from functools import cache, partial
from types import UnionType
from typing import Any, Generic, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from jobs_gateway_client import models

Model = TypeVar("Model")
# Artifact of the one client, AsyncArtifact of the other.
ArtifactT = TypeVar("ArtifactT", bound=models.ArtifactResponse)


class Origin(NamedTuple):
    """Where the gateway shows an artifact: in an event of a job, or in its result (``seq`` is None)."""

    public_id: str
    seq: int | None


# Makes an artifact from its origin and the fields of ArtifactResponse.
MakeArtifact = Callable[[Origin, Mapping[str, Any]], ArtifactT]


@dataclass(frozen=True, kw_only=True)
class Event(models.JobEventResponse, Generic[ArtifactT]):
    """One event of a job."""

    artifacts: Sequence[ArtifactT]
    """The pictures that were recorded with it."""


@dataclass(frozen=True, kw_only=True)
class Job(models.JobDetailResponse, Generic[ArtifactT]):
    """A job, with its final pictures and its latest public event."""

    result: Sequence[ArtifactT]
    """The final pictures; empty until the status is SUCCESS."""
    latest_event: Event[ArtifactT] | None
    """The public event with the highest seq; null before the first."""

    @property
    def is_over(self) -> bool:
        return self.status in ("SUCCESS", "FAILURE")


@dataclass(frozen=True, kw_only=True)
class FeedEvent(models.FeedEvent, Generic[ArtifactT]):
    """One event of the feed."""

    event: Event[ArtifactT]
    cursor: str
    """The ``after`` with which to continue behind this event. No event is lost.

    Events of a page (where no stream could be opened) carry the cursor of the page before, but for the last: the page's
    events come again then, with the same ``id``.
    """


def event_of(data: Mapping[str, Any], public_id: str, make_artifact: MakeArtifact[ArtifactT]) -> Event[ArtifactT]:
    origin = Origin(public_id, data["seq"])
    artifacts = [make_artifact(origin, each) for each in data["artifacts"]]
    return Event(**members(models.JobEventResponse, data, "artifacts"), artifacts=artifacts)


def job_of(data: Mapping[str, Any], make_artifact: MakeArtifact[ArtifactT]) -> Job[ArtifactT]:
    public_id = data["public_id"]
    return Job(
        **members(models.JobDetailResponse, data, "result", "latest_event"),
        result=[make_artifact(Origin(public_id, None), each) for each in data["result"]],
        latest_event=event_of(latest, public_id, make_artifact) if (latest := data["latest_event"]) else None,
    )


def feed_event_of(data: Mapping[str, Any], cursor: str, make_artifact: MakeArtifact[ArtifactT]) -> FeedEvent[ArtifactT]:
    event = event_of(data["event"], data["job"]["public_id"], make_artifact)
    return FeedEvent(**members(models.FeedEvent, data, "event"), event=event, cursor=cursor)


def decode(model: type[Model], data: Mapping[str, Any]) -> Model:
    """An instance of a generated model from a JSON object. Raises TypeError where a required member is missing."""
    return model(**members(model, data))


def members(model: type, data: Mapping[str, Any], *left_out: str) -> dict[str, Any]:
    """The values of the fields of a generated model, from a JSON object, but for those that are ``left_out``.

    Members that the model does not have are ignored: a newer gateway may send more.
    """
    names, converters = _shape(model)
    values = dict(data) if data.keys() <= names else {name: data[name] for name in data.keys() & names}
    for name in left_out:
        values.pop(name, None)
    for name, convert in converters:
        if values.get(name) is not None:
            values[name] = convert(values[name])
    return values


Convert = Callable[[Any], Any]


@cache
def _shape(model: type) -> tuple[frozenset[str], list[tuple[str, Convert]]]:
    """The names of a model's fields, and what makes the values of those that are not as JSON has them."""
    hints = get_type_hints(model)
    converters = [(name, convert) for name, hint in hints.items() if (convert := _converter(hint))]
    return frozenset(hints), converters


def _converter(hint: Any) -> Convert | None:
    if isinstance(hint, type) and is_dataclass(hint):
        return partial(decode, hint)
    if hint is datetime:
        return _datetime
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:  # of one type and None
        return next(filter(None, map(_converter, arguments)), None)
    if origin in (Sequence, Mapping) and (convert := _converter(arguments[-1])):
        return partial(_list, convert) if origin is Sequence else partial(_dict, convert)
    return None


def _list(convert: Convert, values: list[Any]) -> list[Any]:
    return [convert(each) for each in values]


def _dict(convert: Convert, values: dict[str, Any]) -> dict[str, Any]:
    return {name: convert(each) for name, each in values.items()}


def _datetime(text: str) -> datetime:
    # Python 3.10 reads no Z. The gateway writes six digits of a second or none, which 3.10 reads.
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
