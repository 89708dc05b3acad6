"""The progress display of the command line, with rich."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from jobs_gateway_client.client import Artifact
from jobs_gateway_client.results import Event


class ProgressDisplay:
    """A bar, and a line above it for each event or picture."""

    def __init__(self) -> None:
        self._progress = Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._task: TaskID = self._progress.add_task("Waiting", total=None)

    def __enter__(self) -> ProgressDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def event(self, event: Event[Artifact]) -> None:
        line = f"{event.seq:>4}  {event.event_type:<10} {event.message}"
        self._progress.console.print(line, markup=False, highlight=False)
        progress = event.extra.get("progress")
        if isinstance(progress, (int, float)):
            self._progress.update(self._task, total=1.0, completed=progress)
        self._progress.update(self._task, description=escape(event.stage or event.event_type))

    def waiting(self, public_id: str) -> None:
        self._progress.update(self._task, description=f"Waiting for {escape(public_id)}")

    def picture(self, artifact: Artifact, path: Path, number: int, total: int) -> None:
        self._progress.console.print(str(path), markup=False, highlight=False, soft_wrap=True)
        self._progress.update(self._task, description=escape(artifact.kind), total=total, completed=number)
