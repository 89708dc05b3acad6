"""``make prove``: that the batteries bite. Plants one fault at a time into a copy of the tree, and runs what must fail.

The batteries hold on the untouched copy first. A fault whose text is no longer there is an error, and so is a test run
that ends in any way but failed tests. Exit code 0: every fault was caught.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "var", "__pycache__", ".*_cache", ".hypothesis", "node_modules")
SECONDS = 600  # for one battery


class Fault(NamedTuple):
    """``edits`` are the texts that change in ``file``, each of which is there once, and what they change into."""

    name: str
    battery: int
    file: str
    edits: Sequence[tuple[str, str]]
    tests: str
    database: str = "sqlite"


FAULTS = (
    Fault(
        "tenant filter dropped in the listing",
        1,
        "jobs/api/v1/queries.py",
        [("Job.objects.for_tenant(TENANT).workflows()", "Job.all_tenants.workflows()")],
        "tests/test_isolation.py",
    ),
    Fault(
        "tenant filter dropped in detail and events",
        1,
        "jobs/api/v1/queries.py",
        [("Job.objects.for_tenant(TENANT).filter(pk=", "Job.all_tenants.filter(pk=")],
        "tests/test_isolation.py",
    ),
    Fault(
        "tenant filter dropped in the fleet's page",
        1,
        "jobs/api/fleet/queries.py",
        [
            ("Job.objects.for_tenant(TENANT).newest_first()", "Job.all_tenants.newest_first()"),
            ("Job.objects.for_tenant(TENANT).filter(pk__in", "Job.all_tenants.filter(pk__in"),
        ],
        "tests/test_isolation.py",
    ),
    Fault(
        "tenant filter dropped in the fleet's counts",
        1,
        "jobs/api/fleet/queries.py",
        [("return JobCounts.objects.for_tenant(TENANT)", "return JobCounts.all_tenants.all()")],
        "tests/test_isolation.py",
    ),
    Fault(
        "row security not switched on",
        2,
        "jobs/migrations/0004_row_security.py",
        [('schema_editor.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")', "pass")],
        "tests/test_row_security.py",
        "postgresql",
    ),
    Fault(
        "tenant set for the session, not the transaction",
        3,
        "jobs/database/pipeline.py",
        [("set_config('app.tenant', %s, true)", "set_config('app.tenant', %s, false)")],
        "tests/test_connection_reuse.py",
        "postgresql",
    ),
    Fault(
        "exp of a session token not required",
        4,
        "tenants/shopify.py",
        [('"require": ["exp", ', '"require": [')],
        "tests/test_shopify.py",
    ),
    Fault(
        "revoked token accepted",
        4,
        "tenants/tokens.py",
        [("if row.revoked_at is not None:", "if False:")],
        "tests/test_tokens.py",
    ),
    Fault(
        "unsigned link to a local file accepted",
        5,
        "jobs/artifacts/downloads.py",
        [("if seconds_left <= 0:", "if seconds_left <= 0 and request.GET:")],
        "tests/test_local_links.py",
    ),
    Fault(
        "redaction of member names skipped",
        6,
        "jobs/artifacts/redaction.py",
        [("if (text := self.text(name)) is not name:", "if (text := name) is not name:")],
        "tests/test_redaction.py",
    ),
    Fault(
        "id instead of seq as the timeline's cursor",
        8,
        "jobs/database/events.py",
        [('filter(seq__gt=_PreviousSeq("since")).order_by("seq")', 'filter(pk__gt=Param("since")).order_by("pk")')],
        "tests/test_timeline_walk.py tests/test_job_events.py",
        "postgresql",
    ),
    Fault(
        "checkpoint written before the commit",
        9,
        "jobs/ingest/bulk.py",
        [("loaded.skipped = now.last_line", "loaded.skipped = (upcoming.result() or now).last_line")],
        "tests/test_crash.py -k sqlite",
    ),
)


def plant(copy: Path, fault: Fault) -> str:
    """The file as it was. Raises ValueError for a fault that no longer applies."""
    path = copy / fault.file
    before = text = path.read_text()
    for old, new in fault.edits:
        if text.count(old) != 1:
            raise ValueError(f"{fault.file} holds {old!r} {text.count(old)} times, not once: {fault.name}")
        text = text.replace(old, new)
    path.write_text(text)
    return before


def run(copy: Path, tests: str, database: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split()]
    environment = os.environ | {"TEST_DATABASE": database, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def hold(copy: Path) -> bool:
    """Whether the batteries that are to catch something hold without it."""
    for tests, database in sorted({(fault.tests, fault.database) for fault in FAULTS}):
        done = run(copy, tests, database)
        if done.returncode != 0:
            say(f"{tests} on {database} does not hold as it is:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
            return False
    return True


def main() -> int:
    caught = 0
    with tempfile.TemporaryDirectory(prefix="jgw-prove-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED, symlinks=True)
        for fault in FAULTS:  # before anything takes long
            (copy / fault.file).write_text(plant(copy, fault))
        say("The batteries, without a fault …")
        if not hold(copy):
            return 2
        say(f"They hold. {len(FAULTS)} faults, one at a time:\n\n  #  battery  {'fault':<50} outcome")
        for number, fault in enumerate(FAULTS, 1):
            began = time.monotonic()
            before = plant(copy, fault)
            done = run(copy, fault.tests, fault.database)
            (copy / fault.file).write_text(before)
            failed = re.findall(r"^FAILED \S+?::(\S+)", done.stdout, re.MULTILINE)
            is_caught = done.returncode == 1 and bool(failed)
            caught += is_caught
            outcome = f"caught by {failed[0]}" if is_caught else f"NOT CAUGHT (exit code {done.returncode})"
            say(f"{number:>3}  {fault.battery:>7}  {fault.name:<50} {outcome} ({time.monotonic() - began:.0f} s)")
    say(f"\n{caught} of {len(FAULTS)} caught.")
    return caught != len(FAULTS)


if __name__ == "__main__":
    sys.exit(main())
