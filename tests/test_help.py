"""The help of every command has an example, which its parser accepts."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from django.core.management import BaseCommand, get_commands, load_command_class

from jobs.management.batches import BatchCommand, StoppableCommand

pytestmark = pytest.mark.sqlite  # no database is used: once is enough

OURS = sorted(name for name, app in get_commands().items() if app in ("jobs", "tenants", "jobs.webhooks"))
COMMANDS = {name: load_command_class(get_commands()[name], name) for name in OURS}
# The arguments that every command of Django has.
OF_DJANGO = {each.dest for each in BaseCommand().create_parser("manage.py", "any")._actions}
BATCHES = [name for name in OURS if isinstance(COMMANDS[name], BatchCommand)]


def test_all_commands_are_known():
    root = Path(__file__).resolve().parent.parent
    files = [path for app in ("*", "*/*") for path in root.glob(f"{app}/management/commands/[a-z]*.py")]
    assert sorted(path.stem for path in files) == OURS


@pytest.mark.parametrize("name", OURS)
def test_help_has_an_example_that_works(name):
    parser = COMMANDS[name].create_parser("manage.py", name)
    text = " ".join(parser.format_help().split())
    # Up to what follows it: a redirection, the next command, the exit codes or the list of options.
    words = r"(?: (?!>|[A-Z_]+=|Exit code|options:)\S+)*"
    example = re.search(rf"Example: (?:[A-Z_]+=\S+ )*manage\.py {name}({words})", text)
    assert example, text
    parser.parse_args(shlex.split(example[1].rstrip(".")))


@pytest.mark.parametrize("name", OURS)
def test_every_argument_is_explained_in_short_sentences(name):
    command = COMMANDS[name]
    parser = command.create_parser("manage.py", name)
    ours = [each for each in parser._actions if each.help and each.dest not in OF_DJANGO]
    assert all(each.help for each in parser._actions)
    sentences = [sentence for text in [command.help, *(each.help for each in ours)] for sentence in text.split(". ")]
    assert [
        text for text in [command.help, *(each.help for each in ours)] if not text[:1].isupper() and text[0] != "-"
    ] == []
    assert [text for text in (each.help for each in ours) if not text.endswith(".")] == []
    assert [sentence for sentence in sentences if len(sentence.split()) > 35] == []


@pytest.mark.parametrize("name", BATCHES)
def test_commands_that_go_in_batches_share_their_options(name):
    text = COMMANDS[name].create_parser("manage.py", name).format_help()
    for option in ("--tenant SLUG", "--dry-run", "--batch", "--throttle SECONDS", "--checkpoint FILE"):
        assert option in text


def test_commands_that_can_be_stopped_tell_their_exit_codes():
    for name in OURS:
        if isinstance(COMMANDS[name], StoppableCommand):
            assert "Exit code 0: " in " ".join(COMMANDS[name].create_parser("manage.py", name).format_help().split())


def test_backfills_are_commands_that_go_in_batches():
    assert BATCHES == ["backfill_artifacts", "backfill_jobs", "backfill_status", "export_jobs", "prune_jobs"]
