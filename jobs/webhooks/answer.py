"""What came of one request to an endpoint."""

from __future__ import annotations

from typing import NamedTuple


class Answer(NamedTuple):
    status: int | None  # None: no answer, and ``error`` says why
    body: str  # its beginning
    error: str
    seconds: float
    retry_after: float | None  # seconds that the receiver asked for, by 429 or 503

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300
