"""Searches every response and log line of all tests for secrets, and prints a table of the security tests.

A security test group is one file of tests or several. A test that covers many cases reports their number:
``record_property("cases", n)``.
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

GROUPS = {
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
    14: (
        "the feed, streams and waiting",
        "test_feed test_feed_under_writers test_streams test_following test_positions",
    ),
    15: ("webhooks", "test_webhooks test_webhooks_under_faults test_webhook_addresses test_webhook_receivers"),
}
GROUP_OF = {file: number for number, (_, files) in GROUPS.items() for file in files.split()}


SEARCH = 12  # the group whose cases are the responses and log lines that were searched


class SecurityTestTable:
    """The pytest plugin that counts the cases of each group and prints the table."""

    def __init__(self) -> None:
        self.cases: Counter[int] = Counter()
        self.failed: Counter[int] = Counter()
        self.seconds: dict[int, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        number = GROUP_OF.get(Path(report.location[0]).stem)
        if number is None:
            return
        self.seconds[number] += report.duration
        if report.when == "call":
            # A hypothesis test reports it once an example.
            self.cases[number] += sum(int(count) for name, count in report.user_properties if name == "cases") or 1  # type: ignore[call-overload]
        self.failed[number] += report.failed

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):  # a worker of pytest-xdist, which prints nothing itself
            session.config.workeroutput["searched"] = watch.searched

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker has finished: ``workeroutput`` is missing if it crashed."""
        watch.searched += getattr(node, "workeroutput", {}).get("searched", 0)

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        cases = dict(self.cases) | ({SEARCH: watch.searched} if self.cases else {})
        if not cases:
            return
        terminalreporter.section("security tests")
        terminalreporter.line(f"{'#':>3}  {'':<36} {'cases':>8} {'seconds':>8}")
        for number, count in sorted(cases.items()):
            outcome = f"{self.failed[number]} FAILED" if self.failed[number] else "passed"
            name = GROUPS[number][0]
            terminalreporter.line(f"{number:>3}  {name:<36} {count:>8,} {self.seconds[number]:>8.1f}  {outcome}")


class Leak(AssertionError):
    """A secret was in a response or in the log."""


# A signed link to a picture, in JSON or in HTML: the only place where a key and a signature may be.
LINK = re.compile(r"(?:https?://|/artifacts/)[^\s\"'<>]*[?&;](?:X-Amz-S|s)ignature=[A-Za-z0-9_-]+")


class Watch:
    """Keeps what was sent and logged since the last check, and what must not be in it. It reads no database."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []
        self.secrets: set[str] = set()  # must appear nowhere: tokens and keys
        self.in_links_only: set[str] = set()  # storage keys and signatures
        self.searched = 0

    def add_settings(self) -> None:
        """Adds the secrets of the settings, before a test changes them, and of the servers, and listens to the log."""
        # For each test anew, because configuring logging removes the handlers of the root logger.
        logging.getLogger().addHandler(log_lines)
        self.secrets |= {settings.SECRET_KEY, forgery.SECRET, servers.S3_SECRET_KEY}

    def record(self, source: str, text: str) -> None:
        self.texts.append((source, text))

    def check(self) -> None:
        """Searches what was recorded, and drops it. Raises Leak."""
        texts, secrets, in_links_only = self.texts, self.secrets, self.in_links_only
        self.texts, self.secrets, self.in_links_only = [], set(), set()
        self.searched += len(texts)
        for source, text in texts:
            outside_links = LINK.sub("", text)
            for secret in secrets:
                if secret in text:
                    raise Leak(f"{source} holds a secret: …{text[max(0, text.find(secret) - 80) :][:200]}")
            for secret in in_links_only:
                if secret in outside_links:
                    raise Leak(f"{source} holds “{secret}” outside a link: {outside_links[:400]}")


watch = Watch()


class LogLines(logging.Handler):
    """Records each log line as the gateway's own formatter writes it."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in ("django", "jobs", "jobs_gateway", "tenants", "psycopg"):
            watch.record(f"the log of {record.name}", self.format(record))


log_lines = LogLines()


def watch_responses_and_logs() -> Iterator[None]:
    """Records every response, log line, token and link of this process and of the gateways that it starts."""
    from django.test import Client  # tests.client.Client is one

    from jobs.artifacts.signing import LinkSigner
    from jobs.ingest import bulk
    from jobs.webhooks import signing
    from jobs_gateway.logs import JSONLines
    from tenants import tokens
    from tests import gateway

    def issued(token: str, *_: Any, **__: Any) -> None:
        watch.secrets.add(token.split("_", 2)[2])

    def answered(response: Any, *_: Any, **request: Any) -> None:
        shows_secrets = ("/admin/tenants/", "/admin/webhooks/")  # once, when they are made
        if not response.streaming and not request.get("PATH_INFO", "").startswith(shows_secrets):
            headers = "".join(f"{name}: {value}\n" for name, value in response.headers.items())
            body = response.content.decode("utf-8", "replace")
            watch.record(f"the answer to {request.get('PATH_INFO')}", f"{headers}\n{body}")

    def served(answer: gateway.Answer, *_: Any, **__: Any) -> None:
        watch.record("an answer of a process", f"{answer.headers}\n{answer.body.decode('utf-8', 'replace')}")

    def signed(link: str, _signer: LinkSigner, storage_key: str) -> None:
        # The object of the probe, "readyz", is no tenant's.
        watch.in_links_only |= {link.rpartition("ignature=")[2], storage_key} - {"readyz"}

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
        afterwards(signing, "new_secret", lambda secret: watch.secrets.add(secret.removeprefix("whsec_")))
        afterwards(Client, "request", answered)
        afterwards(gateway.Gateway, "send", served)
        afterwards(LinkSigner, "url", signed)
        afterwards(bulk, "load_record", loaded)
        log_lines.setFormatter(JSONLines())
        yield
        logging.getLogger().removeHandler(log_lines)
