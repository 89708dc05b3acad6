"""README and docs: every block that can run on a fresh demo is run as it stands, and prints what the page shows.

A fenced ``sh`` or ``python`` block is run unless an HTML comment above it says why not: ``<!-- not run: … -->``. All
blocks of a page are run in order, in one shell. A ``json`` or ``text`` block directly behind one is its expected
standard output, in which ``…`` stands for any text (as the last item of a list: for any further items). Times, tokens,
passwords and signatures differ from run to run and are not compared.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from django.core.management import get_commands

from jobs.ingest import interchange
from jobs_gateway.environment import parse_file
from tests.test_serve import serving

pytestmark = pytest.mark.sqlite  # the demo's database, which the blocks are about

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# No block of these can run on a demo.
NOT_RUN = {
    "docs/deploy.md": "it needs root, systemd, nginx and a PostgreSQL server",
    "docs/performance.md": "it measures for half an hour",
    "docs/testing.md": "it runs the tests",
}
SHOWN_URL = "http://127.0.0.1:8000"
LONGEST_SECONDS = 300  # for all blocks of a page

FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]{10,}) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
VARYING = [
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "TIME"),
    (re.compile(r"jgw_[a-z0-9]{12}_[\w-]+"), "TOKEN"),
    (re.compile(r"(?<=password )\S+"), "PASSWORD"),
    (re.compile(r"expires=\d+&signature=[\w-]+"), "SIGNATURE"),
    (re.compile(r"\r"), ""),
]


class Block(NamedTuple):
    language: str
    code: str
    is_run: bool
    output: str | None  # what the page shows as its output
    output_language: str


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(page: Path) -> list[Block]:
    """The shell and Python blocks of a page."""
    text = page.read_text()
    found = list(FENCE.finditer(text))
    blocks = []
    for place, fence in enumerate(found):
        if fence["language"] not in ("sh", "python"):
            continue
        behind = found[place + 1] if place + 1 < len(found) else None
        is_shown = behind and behind["language"] in ("json", "text") and not text[fence.end() : behind.start()].strip()
        output, language = (behind["code"], behind["language"]) if behind and is_shown else (None, "")
        is_run = fence["reason"] is None and name_of(page) not in NOT_RUN
        blocks.append(Block(fence["language"], fence["code"], is_run, output, language))
    return blocks


RUN = [page for page in PAGES if any(block.is_run for block in blocks_of(page))]


def without_varying(text: str) -> str:
    for pattern, replacement in VARYING:
        text = pattern.sub(replacement, text)
    return text


def text_matches(shown: str, printed: str) -> bool:
    pattern = ".*?".join(re.escape(part) for part in without_varying(shown).strip().split("…"))
    return re.fullmatch(pattern, without_varying(printed).strip(), re.DOTALL) is not None


def json_matches(shown: object, printed: object) -> bool:
    if isinstance(shown, dict):
        return (
            isinstance(printed, dict)
            and shown.keys() == printed.keys()
            and all(json_matches(value, printed[name]) for name, value in shown.items())
        )
    if isinstance(shown, list) and isinstance(printed, list):
        if shown and shown[-1] == "…":
            shown, printed = shown[:-1], printed[: len(shown) - 1]
        return len(shown) == len(printed) and all(map(json_matches, shown, printed))
    if isinstance(shown, str) and isinstance(printed, str):
        return text_matches(shown, printed)
    return type(shown) is type(printed) and shown == printed


def assert_shown(block: Block, printed: str) -> None:
    assert block.output is not None
    if block.output_language == "json":
        assert json_matches(json.loads(block.output), json.loads(printed)), printed
    else:
        assert text_matches(block.output, printed), printed


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder that looks like the checkout after `make run`, what that printed, and its address."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "manage.py").symlink_to(ROOT / "manage.py")
    (folder / ".venv").symlink_to(sys.prefix)
    with serving(folder / "var", "--demo", ACCESS_LOG="0") as (printed, base_url, _):
        yield folder, printed, base_url


def command_of(block: Block, file: Path) -> str:
    if block.language == "sh":
        return f". ./{file.name}"
    if re.search(r"^(from|import) (jobs|tenants)\b", block.code, re.MULTILINE):
        return f"./manage.py shell < {file.name}"
    return f"python3 {file.name}"


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_every_block_runs_as_pasted_and_prints_what_the_page_shows(page, demo):
    folder, _, base_url = demo
    script = ["set -euo pipefail"]
    blocks = [block for block in blocks_of(page) if block.is_run]
    for number, block in enumerate(blocks):
        file = folder / f"block{number}.{block.language}"
        file.write_text(block.code.replace(SHOWN_URL, base_url))
        script.append(f"{command_of(block, file)} > block{number}.out 2> block{number}.err")
    environment = {
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        "HOME": str(folder),
        "DATA_DIR": str(folder / "var"),
        "ENV_FILE": os.devnull,
    }
    for stale in [*folder.glob("block*.out"), *folder.glob("block*.err")]:  # of another page
        stale.unlink()
    process = subprocess.Popen(
        ["bash", "-c", "\n".join(script)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        written, _ = process.communicate(timeout=LONGEST_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with the block that it runs
            process.wait()
    began = sorted(folder.glob("block*.err"), key=lambda path: int(path.stem.removeprefix("block")))
    assert process.returncode == 0, f"{began[-1].name}: {began[-1].read_text()}{written}"
    assert len(began) == len(blocks)
    for number, block in enumerate(blocks):
        if block.output is not None:
            assert_shown(block, (folder / f"block{number}.out").read_text().replace(base_url, SHOWN_URL))


def test_make_run_prints_what_the_readme_shows(demo):
    _, printed, base_url = demo
    [block] = [block for block in blocks_of(README) if block.code.startswith("make run")]
    assert_shown(block, printed.replace(base_url, SHOWN_URL))


def test_outputs_that_differ_are_noticed():
    assert json_matches({"a": ["x…", "…"]}, {"a": ["xyz", "more", "more"]})
    assert not json_matches({"a": 1}, {"a": 1, "b": 2})
    assert not json_matches({"a": [1]}, {"a": [1, 2]})
    assert not json_matches({"a": True}, {"a": 1})
    assert text_matches("one\n…\nthree\n", "one\ntwo\n2\nthree")
    assert not text_matches("one\nthree\n", "one\ntwo\nthree")


def test_the_readme_is_short_and_its_example_too():
    assert len(README.read_text().splitlines()) <= 120
    [follow] = [block for block in blocks_of(README) if block.language == "python" and "Job-Status" in block.code]
    assert len(follow.code.splitlines()) <= 15


def test_every_setting_is_listed_and_every_listed_one_is_read():
    source = (ROOT / "jobs_gateway" / "settings.py").read_text()
    read = set(re.findall(r'env\.\w+\(\s*"([A-Z0-9_]+)"', source)) - {"ENV_FILE"}
    listed = re.findall(r"^\| `([A-Z0-9_]+)` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(read)


def test_the_settings_file_that_is_shown_can_be_read():
    [shown] = re.findall(r"cat > \.env <<'END'\n(.*?)END\n", (ROOT / "docs" / "settings.md").read_text(), re.DOTALL)
    assert parse_file(shown.encode(), ".env")["DATABASE_URL"].startswith("postgres://")


def test_every_metric_is_listed():
    source = "".join(
        path.read_text() for name in ("jobs", "jobs_gateway", "tenants") for path in (ROOT / name).rglob("*.py")
    )
    made = set(re.findall(r'(?:Counter|Gauge|Histogram)\(\s*"(gateway_\w+)"', source))
    page = (ROOT / "docs" / "metrics-and-logs.md").read_text()
    listed = {name.removesuffix("_total") for name in re.findall(r"^\| `(gateway_\w+)` \|", page, re.MULTILINE)}
    assert made
    assert made - listed == set()


def test_every_command_of_the_gateway_is_described():
    ours = {name for name, app in get_commands().items() if app in ("jobs", "tenants", "jobs.webhooks")}
    page = (ROOT / "docs" / "commands.md").read_text()
    assert ours - set(re.findall(r"^\| `(\w+)", page, re.MULTILINE)) == set()


@pytest.mark.parametrize("members", [interchange.Record, interchange.EventLine, interchange.ArtifactLine])
def test_every_member_of_the_interchange_record_is_described(members):
    page = (ROOT / "docs" / "interchange.md").read_text()
    tables = re.findall(r"^\| member \|.*?\n\n", f"{page}\n", re.MULTILINE | re.DOTALL)
    listed = [re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) for table in tables]
    assert sorted(members._fields) in [sorted(names) for names in listed]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_make_targets_that_a_page_names_exist(page):
    text = page.read_text()
    assert set(re.findall(r"manage\.py ([a-z_]+)", text)) - set(get_commands()) == set()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_links_to_exist(page):
    links = re.findall(r'(?:src="|\]\()([^)"#:]+)[)"#]', page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


# Pages whose files in code type are paths from the root of the checkout.
@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md", "docs/decisions.md", "docs/security.md"])
def test_source_files_that_a_page_names_exist(name):
    named = set(re.findall(r"`((?:jobs|jobs_gateway|tenants|tests|deploy|docs)/[\w./-]*)`", (ROOT / name).read_text()))
    assert named
    assert [path for path in sorted(named) if "NAME" not in path and not (ROOT / path).exists()] == []


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text()
    assert [page.name for page in sorted((ROOT / "docs").glob("*.md")) if f"({page.name})" not in index] == ["index.md"]
