"""The requirements: pinned, hashed, bound to no registry, and each explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.sqlite  # no database is used: once is enough

ROOT = Path(__file__).resolve().parent.parent
LISTS = ["requirements", "requirements-dev", "requirements-bench"]


def requirements(text: str) -> list[str]:
    """One line a requirement, with its continuation lines; comments and ``-r``/``-c`` left out."""
    lines = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()
    return [line for line in lines if line and not line.startswith(("-r ", "-c "))]


@pytest.mark.parametrize("name", LISTS)
def test_everything_is_pinned_with_hashes(name):
    for line in requirements((ROOT / f"{name}.txt").read_text()):
        assert re.match(r"[a-z0-9-]+==[^ ]+ (; .+ )?--hash=sha256:[0-9a-f]{64}", line), line


@pytest.mark.parametrize("name", LISTS)
def test_no_registry_is_named(name):
    for suffix in (".in", ".txt"):
        assert re.findall(r"://|--(?:extra-)?index|--find-links", (ROOT / f"{name}{suffix}").read_text()) == []


@pytest.mark.parametrize("name", LISTS)
def test_what_was_asked_for_is_what_was_pinned(name):
    asked = {re.split(r"[^a-z0-9-]", line)[0] for line in requirements((ROOT / f"{name}.in").read_text())}
    pinned = {line.partition("==")[0] for line in requirements((ROOT / f"{name}.txt").read_text())}
    assert asked - pinned == set()


@pytest.mark.parametrize("name", LISTS)
def test_every_dependency_says_why_it_is_there(name):
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    asked = {re.split(r"[^a-z0-9-]", line)[0] for line in requirements((ROOT / f"{name}.in").read_text())}
    assert {package for package in asked if not re.search(rf"[|,] {package}(\[.*?\])?[ ,]", explained)} == set()
