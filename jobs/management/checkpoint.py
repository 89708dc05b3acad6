"""Where a command was, in a small file that is replaced whole after each batch that is safe in the store."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError


class Checkpoint:
    """State of a run over ``subject``; without a ``name`` nothing is kept."""

    def __init__(self, name: str | None, subject: str) -> None:
        self.path = Path(name) if name else None
        self.subject = subject

    def read(self) -> dict[str, Any]:
        """What was written last; {} before the first time."""
        if self.path is None or not self.path.exists():
            return {}
        try:
            state: dict[str, Any] = json.loads(self.path.read_text())
            subject = state.pop("of")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CommandError(f"{self.path} is no checkpoint. Name another file.") from error
        if subject != self.subject:
            raise CommandError(f"{self.path} is the checkpoint of {subject}. Name another file, or remove it.")
        return state

    def write(self, state: dict[str, Any]) -> None:
        if self.path is None:
            return
        new = self.path.with_name(f"{self.path.name}.new")
        with new.open("w") as file:
            json.dump({"of": self.subject} | state, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
