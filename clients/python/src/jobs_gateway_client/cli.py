"""The command line ``jobs-gateway``: list, get, follow, download."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import unquote, urlsplit

from jobs_gateway_client.client import Artifact, Client
from jobs_gateway_client.errors import JobNotFinishedError, JobsGatewayError
from jobs_gateway_client.results import Event, Job

DESCRIPTION = """\
Lists, follows and downloads the jobs of a Jobs Gateway.

Every line of output is a JSON object. On a terminal, `follow` and `download` show their progress instead, where the
package rich is installed: pip install 'jobs-gateway-client[cli]'.
"""
EPILOG = """\
examples:
  export JOBS_GATEWAY_URL=https://jobs.example.com JOBS_GATEWAY_TOKEN=jgw_…
  jobs-gateway list --status SUCCESS --limit 20
  jobs-gateway get 01KP8E2NH03CBABD5WQDK6ZHC2
  jobs-gateway follow 01KP8E2NH03CBABD5WQDK6ZHC2
  jobs-gateway follow --after latest
  jobs-gateway download 01KP8E2NH03CBABD5WQDK6ZHC2 --to pictures

exit codes:
  0    done; of follow and download: the job succeeded
  1    the job failed
  2    wrong arguments, no address, or no token
  3    the gateway or the store answered with an error, or not at all
  4    the job was not over in the time that --timeout gives
  130  interrupted with Ctrl-C
"""
DONE, JOB_FAILED, WRONG_USAGE, ERROR, NOT_FINISHED, INTERRUPTED = 0, 1, 2, 3, 4, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command, and returns its exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if not options.url:
        parser.error("give --url, or set JOBS_GATEWAY_URL")
    try:
        client = Client(options.url)
    except ValueError as error:
        parser.error(str(error))
    try:
        with client:
            exit_code: int = options.run(client, options)
            return exit_code
    except JobNotFinishedError as error:
        sys.stderr.write(f"{error}\n")
        return NOT_FINISHED
    except JobsGatewayError as error:
        sys.stderr.write(f"{error}\n")
        return ERROR
    except BrokenPipeError:  # the reader of a pipe has had enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be flushed at exit
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("jobs-gateway", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    parser.add_argument(
        "--url",
        default=os.environ.get("JOBS_GATEWAY_URL"),
        help="the gateway's address; JOBS_GATEWAY_URL unless given. The token is always in JOBS_GATEWAY_TOKEN.",
    )
    commands = parser.add_subparsers(required=True, metavar="list | get | follow | download")

    command = commands.add_parser("list", help="list workflow jobs, the newest first")
    command.add_argument("--type", action="append", metavar="JOB_TYPE", help="only jobs of this type; may be repeated")
    command.add_argument("--status", choices=["NOT_STARTED", "IN_PROGRESS", "SUCCESS", "FAILURE"])
    command.add_argument("--created-after", metavar="TIME", help="RFC 3339, such as 2026-04-15T12:00:00Z")
    command.add_argument("--updated-after", metavar="TIME", help="of the latest event")
    command.add_argument("--limit", type=positive, metavar="NUMBER", help="at most so many; all unless given")
    command.set_defaults(run=list_jobs)

    command = commands.add_parser("get", help="print one job")
    command.add_argument("public_id")
    command.set_defaults(run=get_job)

    command = commands.add_parser("follow", help="print a job's events until it is over, or those of all jobs")
    command.add_argument("public_id", nargs="?", help="the feed of all jobs unless given")
    command.add_argument(
        "--since", type=int, default=0, metavar="SEQ", help="of one job: only events after this number"
    )
    command.add_argument(
        "--after", metavar="CURSOR", help="of the feed: a cursor, or latest; from the oldest event unless given"
    )
    command.set_defaults(run=follow)

    command = commands.add_parser("download", help="wait for a job, and download its final pictures")
    command.add_argument("public_id")
    command.add_argument("--to", type=Path, default=Path(), metavar="FOLDER", help="this folder unless given")
    command.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="wait so long at most; without end unless given"
    )
    command.set_defaults(run=download)
    return parser


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


# --- The commands -----------------------------------------------------------------------------------------------------


def list_jobs(client: Client, options: argparse.Namespace) -> int:
    filters = {"job_type": options.type, "status": options.status}
    times = {"created_after": options.created_after, "updated_after": options.updated_after}
    page_size = min(options.limit or 200, 200)
    for number, job in enumerate(client.jobs.list(**filters, **times, page_size=page_size), start=1):
        write_line(job)
        if number == options.limit:
            break
    return DONE


def get_job(client: Client, options: argparse.Namespace) -> int:
    write_line(client.jobs.get(options.public_id))
    return DONE


def follow(client: Client, options: argparse.Namespace) -> int:
    if options.public_id is None:
        for feed_event in client.events(options.after):
            write_line(feed_event)
        return DONE
    with display() as shown:
        for event in client.jobs.events(options.public_id, options.since):
            shown.event(event)
    return exit_code_of(client.jobs.get(options.public_id))


def download(client: Client, options: argparse.Namespace) -> int:
    options.to.mkdir(parents=True, exist_ok=True)
    with display() as shown:
        shown.waiting(options.public_id)
        job = client.jobs.wait(options.public_id, options.timeout)
        for number, artifact in enumerate(job.result, start=1):
            path = artifact.download(options.to / file_name(artifact, number))
            shown.picture(artifact, path, number, len(job.result))
    return exit_code_of(job)


def exit_code_of(job: Job[Artifact]) -> int:
    return JOB_FAILED if job.status == "FAILURE" else DONE


def file_name(artifact: Artifact, number: int) -> str:
    """The file's own name in the store, with a number, because the names of a job's pictures may be the same."""
    name = Path(unquote(urlsplit(artifact.image_url).path)).name
    return f"{number:02d}-{name}"


# --- Output -----------------------------------------------------------------------------------------------------------


class Display(Protocol):
    """What `follow` and `download` show."""

    def event(self, event: Event[Artifact]) -> None: ...

    def waiting(self, public_id: str) -> None: ...

    def picture(self, artifact: Artifact, path: Path, number: int, total: int) -> None: ...


class JsonLines:
    """One JSON object a line."""

    def event(self, event: Event[Artifact]) -> None:
        write_line(event)

    def waiting(self, public_id: str) -> None:
        pass

    def picture(self, artifact: Artifact, path: Path, number: int, total: int) -> None:
        write_line({"path": str(path), "kind": artifact.kind, "label": artifact.label})


def display() -> Any:
    """A context manager for a Display."""
    if sys.stdout.isatty():
        try:
            from jobs_gateway_client.progress import ProgressDisplay
        except ModuleNotFoundError:
            sys.stderr.write("pip install 'jobs-gateway-client[cli]' for a progress display.\n")
        else:
            return ProgressDisplay()
    return nullcontext(JsonLines())


def write_line(value: object) -> None:
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """A model as the JSON that it came from."""
    if is_dataclass(value):
        names = [each.name for each in fields(value) if not each.name.startswith("_")]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, dict):
        return {name: plain(each) for name, each in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list):
        return [plain(each) for each in cast("Sequence[Any]", value)]
    return value


if __name__ == "__main__":
    sys.exit(main())
