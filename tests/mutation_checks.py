"""``make prove``: plants one fault at a time into a copy of the source, and checks that the security tests fail.

The tests must pass on the unchanged copy first. It is an error if the text that a fault replaces is not there, or if a
test run ends in another way than by failed tests. Exit status 0: every fault was caught.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "var", "__pycache__", ".*_cache", ".hypothesis", "node_modules")
TIMEOUT_SECONDS = 600  # of one test run


class Fault(NamedTuple):
    """``edits`` are pairs of a text that ``file`` holds once, and what replaces it. ``group`` is one of leak_checks."""

    name: str
    group: int
    file: str
    edits: Sequence[tuple[str, str]]
    tests: str
    database: str = "sqlite"


FAULTS = (
    Fault(
        "tenant filter dropped in the list",
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
        [("if seconds_left <= 0:", 'if seconds_left <= 0 and scope["query_string"]:')],
        "tests/test_local_links.py",
    ),
    Fault(
        "redactor cached by something other than the tenant's prefix",
        6,
        "jobs/artifacts/redaction.py",
        [
            (
                "@lru_cache(maxsize=4096)\ndef _cached(storage_prefix: str",
                (
                    "_of = {}\n\n\ndef _cached(prefix, urls, *origins):\n"
                    "    return _of.setdefault(urls, _new(prefix, urls, *origins))\n\n\n"
                    "def _new(storage_prefix: str"
                ),
            )
        ],
        "tests/test_tenant_renderer.py",
    ),
    Fault(
        "redaction of member names skipped",
        6,
        "jobs/artifacts/redaction.py",
        [("if (text := self.redact_text(name)) is not name:", "if (text := name) is not name:")],
        "tests/test_redaction.py",
    ),
    Fault(
        "id instead of seq as the timeline's cursor",
        8,
        "jobs/database/events.py",
        [('JSONRow(*EVENT_ROW_COLUMNS),\n        "seq",\n', 'JSONRow(*EVENT_ROW_COLUMNS),\n        "pk",\n')],
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
    Fault(
        "version not raised by an artifact that is loaded without an event",
        10,
        "jobs/ingest/bulk_writer.py",
        [("return len(self.events) + len(self.artifacts)", "return len(self.events)")],
        "tests/test_conditional.py -k loaded",
    ),
    Fault(
        "query compiled when it is first used",
        1,
        "jobs/database/prepared.py",
        [
            (
                "        if self._compiled is None:\n            raise RuntimeError(",
                (
                    "        self._compiled = self._compiled or self.compile(connections[settings.API_DATABASE])\n"
                    "        if self._compiled is None:\n            raise RuntimeError("
                ),
            )
        ],
        "tests/test_engine.py",
    ),
    Fault(
        "waiter registered after the first read",
        14,
        "jobs/api/following/views.py",
        [
            ("            waiter = held.enter_context(wake_ups.waiter(self.caller.tenant_id, job))\n", ""),
            (
                "            started = await start(waiter)\n",
                (
                    "            started = await start(Waiter(self.caller.tenant_id, job))\n"
                    "            waiter = held.enter_context(wake_ups.waiter(self.caller.tenant_id, job))\n"
                ),
            ),
        ],
        "tests/test_following.py",
    ),
    Fault(
        "cursors not keyed",
        14,
        "jobs/api/cursors.py",
        [("    return AESSIV(key)", "    return AESSIV(bytes(64))")],
        "tests/test_feed.py",
    ),
    Fault(
        "credential of a stream not checked again",
        14,
        "jobs/api/following/streams.py",
        [("            if now() >= next_check:", "            if False:")],
        "tests/test_streams.py",
    ),
    Fault(
        "position assigned outside the counter's lock",
        14,
        "jobs/ingest/ledger.py",
        [
            (
                "    row.save(update_fields=_MOVED_BY_EVENTS)",
                "    position = __import__('time').time_ns()\n    row.save(update_fields=_MOVED_BY_EVENTS)",
            ),
            ("return last[row.tenant_id]", "return position"),
        ],
        "tests/test_positions.py -k misses",
        "postgresql",
    ),
    Fault(
        "bulk loader takes no positions for events",
        14,
        "jobs/ingest/bulk_writer.py",
        [("< earliest, position if is_public else None))", "< earliest, None))")],
        "tests/test_positions.py -k loaded_public",
    ),
    Fault(
        "order of webhooks broken by retries",
        15,
        "jobs/webhooks/delivery.py",
        [("            if job in self._blocked:  # it is read again when its turn comes\n", "            if False:\n")],
        "tests/test_webhooks.py -k in_order",
    ),
    Fault(
        "position of an endpoint advanced before the answer",
        15,
        "jobs/webhooks/delivery.py",
        [("return next(iter(self._window)) - 1 if self._window else self.read_up_to", "return self.read_up_to")],
        "tests/test_webhooks.py -k dies",
    ),
    Fault(
        "secret of a webhook logged",
        15,
        "jobs/webhooks/delivery.py",
        [
            (
                "        keys = [key.key for key in config.keys if key.expires_at > now]\n",
                (
                    "        keys = [key.key for key in config.keys if key.expires_at > now]\n"
                    '        logger.warning("%s", __import__("base64").b64encode(keys[0]).decode())\n'
                ),
            )
        ],
        "tests/test_webhooks.py -k logged",
    ),
    Fault(
        "address of a webhook checked before the connection is made",
        15,
        "jobs/webhooks/sender.py",
        [
            (
                "                    socket_factory=checked_socket",
                "                    # checked_socket",
            ),
            (
                '                session = self._sessions[url.partition(":")[0].lower()]\n',
                (
                    '                session = self._sessions[url.partition(":")[0].lower()]\n'
                    "                import socket\n"
                    "                from urllib.parse import urlsplit\n\n"
                    '                secure = url.startswith("https")\n'
                    "                check = checked_socket(settings.WEBHOOK_ALLOWED_NETWORKS, is_encrypted=secure)\n"
                    "                for each in socket.getaddrinfo(urlsplit(url).hostname, urlsplit(url).port):\n"
                    "                    check(each).close()\n"
                ),
            ),
        ],
        "tests/test_webhook_addresses.py -k changes",
    ),
)


def plant(copy: Path, fault: Fault) -> str:
    """Returns the file's text before the change. Raises ValueError if an edit does not apply."""
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
    try:
        return subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, -1, "", f"It did not end within {TIMEOUT_SECONDS} s.")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Copies:
    """Copies of the source, one for each thread: a fault in one does not change what another one tests."""

    def __init__(self, folder: Path, number: int) -> None:
        self.free: Queue[Path] = Queue()
        for each in range(number):
            copy = folder / f"copy{each}"
            shutil.copytree(ROOT, copy, ignore=NOT_COPIED, symlinks=True)
            self.free.put(copy)

    @contextmanager
    def one(self) -> Iterator[Path]:
        copy = self.free.get()
        try:
            yield copy
        finally:
            self.free.put(copy)


def check_passes(copies: Copies, tests: str, database: str) -> str:
    """Why ``tests`` do not pass without a fault; an empty text if they do."""
    with copies.one() as copy:
        done = run(copy, tests, database)
    if done.returncode == 0:
        return ""
    return f"{tests} on {database} fails without a fault:\n{done.stdout[-3000:]}{done.stderr[-1000:]}"


def check_caught(copies: Copies, fault: Fault) -> tuple[bool, str]:
    """Whether a test failed because of ``fault``, and what to print about it."""
    with copies.one() as copy:
        began = time.monotonic()
        before = plant(copy, fault)
        done = run(copy, fault.tests, fault.database)
        (copy / fault.file).write_text(before)
        seconds = time.monotonic() - began
    failed = re.findall(r"^FAILED \S+?::(\S+)", done.stdout, re.MULTILINE)
    is_caught = done.returncode == 1 and bool(failed)
    outcome = f"caught by {failed[0]}" if is_caught else f"NOT CAUGHT (exit status {done.returncode})"
    return is_caught, f"{fault.group:>7}  {fault.name:<50} {outcome} ({seconds:.0f} s)"


def main() -> int:
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="jgw-mutations-") as folder, ThreadPoolExecutor(cores) as pool:
        copies = Copies(Path(folder), cores)
        with copies.one() as copy:
            for fault in FAULTS:  # an edit that does not apply is found before anything takes long
                (copy / fault.file).write_text(plant(copy, fault))
        say("The tests without a fault …")
        runs = sorted({(fault.tests, fault.database) for fault in FAULTS})
        if failures := [why for why in pool.map(lambda each: check_passes(copies, *each), runs) if why]:
            say("\n".join(failures))
            return 2
        say(f"They pass. {len(FAULTS)} faults:\n\n  #    group  {'fault':<50} outcome")
        caught = 0
        for number, (is_caught, line) in enumerate(pool.map(lambda fault: check_caught(copies, fault), FAULTS), 1):
            caught += is_caught
            say(f"{number:>3}  {line}")
    say(f"\n{caught} of {len(FAULTS)} caught.")
    return caught != len(FAULTS)


if __name__ == "__main__":
    sys.exit(main())
