"""What the batteries of attacks have in common: a table of their cases, and a watch for secrets in all they make leave.

A battery is a file of tests, or more. A test that stands for many cases says how many: ``record_property("cases", n)``.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings

from tests import forgery, servers

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

NAMES = {
    1: ("nobody reads another tenant's rows", "test_isolation"),
    2: ("row security behind a broken scope", "test_row_security"),
    3: ("no tenant survives on a connection", "test_connection_reuse"),
    4: ("forged credentials", "test_authentication test_shopify test_tokens"),
    5: ("altered links", "test_local_links test_signing_s3"),
    6: ("redaction", "test_redaction"),
    7: ("fuzz", "test_fuzz"),
    8: ("a timeline under writers", "test_timeline_walk test_timeline_under_writers"),
    9: ("crashes of a load", "test_crash"),
    10: ("round trips", "test_export_jobs test_interchange"),
    11: ("outages", "test_outage"),
    12: ("secrets in answers and logs", "test_secrets"),
    13: ("rate limits", "test_rate_limits"),
}
BATTERY_OF = {file: number for number, (_, files) in NAMES.items() for file in files.split()}


class Batteries:
    """The pytest plugin that counts."""

    def __init__(self) -> None:
        self.cases: Counter[int] = Counter()
        self.failed: Counter[int] = Counter()
        self.seconds: dict[int, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        number = BATTERY_OF.get(Path(report.location[0]).stem)
        if number is None:
            return
        self.seconds[number] += report.duration
        if report.when == "call":
            # Said once, or for each example.
            self.cases[number] += sum(int(told) for name, told in report.user_properties if name == "cases") or 1  # type: ignore[call-overload]
        self.failed[number] += report.failed

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        cases = dict(self.cases) | ({12: watch.searched} if self.cases else {})
        if not cases:
            return
        terminalreporter.section("batteries")
        terminalreporter.line(f"{'#':>3}  {'':<36} {'cases':>8} {'seconds':>8}")
        for number, count in sorted(cases.items()):
            outcome = f"{self.failed[number]} FAILED" if self.failed[number] else "held"
            name = NAMES[number][0]
            terminalreporter.line(f"{number:>3}  {name:<36} {count:>8,} {self.seconds[number]:>8.1f}  {outcome}")


class Leak(AssertionError):
    """A secret was in an answer or in the log."""


# A link to a picture, in JSON or in HTML: the one place where a key and a signature may stand.
LINK = re.compile(r"(?:https?://|/artifacts/)[^\s\"'<>]*[?&;](?:X-Amz-S|s)ignature=[A-Za-z0-9_-]+")


class Watch:
    """Keeps what left since the last look, and what must not be in it. The watch itself reads no database."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []
        self.secrets: set[str] = set()  # must not leave at all: tokens and keys
        self.in_links_only: set[str] = set()  # storage keys and signatures
        self.searched = 0

    def add_settings(self) -> None:
        """Listens to the log for the secrets of this test's settings, before it changes them, and of its servers."""
        # Anew for each test: whoever configures logging takes the handlers of the root away.
        logging.getLogger().addHandler(log_lines)
        self.secrets |= {settings.SECRET_KEY, forgery.SECRET, servers.S3_SECRET_KEY}

    def left(self, where: str, text: str) -> None:
        self.texts.append((where, text))

    def look(self) -> None:
        """Forgets what it kept. Raises Leak."""
        texts, secrets, in_links_only = self.texts, self.secrets, self.in_links_only
        self.texts, self.secrets, self.in_links_only = [], set(), set()
        self.searched += len(texts)
        for where, text in texts:
            outside = LINK.sub("", text)
            for secret in secrets:
                if secret in text:
                    raise Leak(f"{where} holds a secret: …{text[max(0, text.find(secret) - 80) :][:200]}")
            for secret in in_links_only:
                if secret in outside:
                    raise Leak(f"{where} holds “{secret}” outside a link: {outside[:400]}")


watch = Watch()


class LogLines(logging.Handler):
    """What the gateway's own formatter makes of each record."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in ("django", "jobs", "jobs_gateway", "tenants", "psycopg"):
            watch.left(f"the log of {record.name}", self.format(record))


log_lines = LogLines()


def begin() -> Iterator[None]:
    """Has the watch see every answer, log line, token and link of this process and of gateways it starts."""
    from jobs.artifacts.signing import Links
    from jobs.ingest import bulk
    from jobs_gateway.logs import JSONLines
    from tenants import tokens
    from tests import gateway
    from tests.client import Client

    def issued(token: str, *_: Any, **__: Any) -> None:
        watch.secrets.add(token.split("_", 2)[2])

    def answered(response: Any, *_: Any, **request: Any) -> None:
        if not response.streaming and not request.get("PATH_INFO", "").startswith("/admin/tenants/"):
            headers = "".join(f"{name}: {value}\n" for name, value in response.headers.items())
            body = response.content.decode("utf-8", "replace")
            watch.left(f"the answer to {request.get('PATH_INFO')}", f"{headers}\n{body}")

    def served(answer: gateway.Answer, *_: Any, **__: Any) -> None:
        watch.left("an answer of a process", f"{answer.headers}\n{answer.body.decode('utf-8', 'replace')}")

    def signed(link: str, _links: Links, storage_key: str) -> None:
        watch.in_links_only |= {link.rpartition("ignature=")[2], storage_key}

    def loaded(_: Any, record: Any, *__: Any) -> None:
        if isinstance(record, dict):
            keys = {
                artifact.get("storage_key")
                for owner in (record, *record.get("events", []))
                for artifact in owner.get("artifacts", [])
            }
            watch.in_links_only |= {key for key in keys if isinstance(key, str) and key}

    with pytest.MonkeyPatch.context() as patch:

        def afterwards(owner: Any, name: str, then: Callable[..., None]) -> None:
            original = getattr(owner, name)

            def wrapped(*arguments: Any, **options: Any) -> Any:
                result = original(*arguments, **options)
                then(result, *arguments, **options)
                return result

            patch.setattr(owner, name, wrapped)

        afterwards(tokens, "issue", issued)
        afterwards(Client, "request", answered)
        afterwards(gateway.Gateway, "send", served)
        afterwards(Links, "url", signed)
        afterwards(bulk, "load_record", loaded)
        log_lines.setFormatter(JSONLines())
        yield
        logging.getLogger().removeHandler(log_lines)
