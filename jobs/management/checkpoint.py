"""The progress of a command, in a small file that is replaced after each committed batch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from jobs.management.errors import reading, writing


class Checkpoint:
    """The saved state of a run over ``subject``. Without a ``name`` nothing is saved."""

    def __init__(self, name: str | None, subject: str) -> None:
        self.path = Path(name) if name else None
        self.subject = subject

    def read(self) -> dict[str, Any]:
        """The state that was written last; {} if there is none. Raises CommandError for another file or subject."""
        if self.path is None or not self.path.exists():
            return {}
        try:
            with reading(f"the checkpoint {self.path}"):
                text = self.path.read_bytes()
            state: dict[str, Any] = json.loads(text)
            subject = state.pop("of")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CommandError(f"{self.path} is not a checkpoint. Name another file.") from error
        if subject != self.subject:
            raise CommandError(f"{self.path} is the checkpoint of {subject}. Name another file, or remove it.")
        return state

    def check(self) -> None:
        """Raises FileError where the checkpoint could not be written. Writes nothing."""
        if self.path is not None:
            with writing(f"the checkpoint {self.path}"):
                new = self._new(self.path)
                new.touch()
                new.unlink()

    def write(self, state: dict[str, Any]) -> None:
        """Replaces the state. Raises FileError."""
        if self.path is None:
            return
        with writing(f"the checkpoint {self.path}"):
            new = self._new(self.path)
            with new.open("w") as file:
                json.dump({"of": self.subject} | state, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)

    def remove(self) -> None:
        """Raises FileError."""
        if self.path is not None:
            with writing(f"the checkpoint {self.path}"):
                self.path.unlink(missing_ok=True)

    @staticmethod
    def _new(path: Path) -> Path:
        return path.with_name(f"{path.name}.new")
