"""``export_jobs --ids`` and ``prune_jobs --absent-from``: a copy removes the jobs that its original has removed."""

from __future__ import annotations

import io
import json

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from jobs.management import id_list
from jobs.models import Job
from tests.conftest import TEST_DATABASE
from tests.records import records
from tests.stores import counts_of, exported, true_counts


def test_a_copy_follows_its_original(new_store, tmp_path):
    """By what is loaded, removed and erased, in two rounds."""
    original = new_store("acme", "globex")
    copy = new_store(like=original)
    lines = list(records(60, ("acme", "globex"), longest=5))
    changed, ids, cursor = tmp_path / "changed.ndjson.gz", tmp_path / "ids.gz", None
    whole, copied = tmp_path / "whole.ndjson", tmp_path / "copied.ndjson"
    for number, new in enumerate((lines[:40], lines[40:])):
        source = tmp_path / f"{number}.ndjson"
        source.write_bytes(b"".join(new))
        removals = [
            ["prune_jobs", "--older-than", "1d", "--tenant", "acme", "--keep-failures"],
            ["erase_tenant", "globex", "--yes"],
        ]
        since = ["--since", cursor] if cursor else []
        done = original.run_all(
            ["backfill_jobs", source],
            *(removals if number else []),
            ["export_jobs", whole],
            ["export_jobs", changed, "--ids", ids, *since],
        )
        cursors = [each["since"] for each in map(json.loads, done.stderr.splitlines()) if "since" in each]
        cursor = cursors[-1] if cursors else None
        copy.run_all(
            ["backfill_jobs", changed],
            ["prune_jobs", "--absent-from", ids, "--batch", 7, "--record", tmp_path / "gone.ndjson"],
            ["export_jobs", copied],
        )
        assert copied.read_bytes() == whole.read_bytes()
    assert (cursor is None) == (TEST_DATABASE == "sqlite")  # which makes a whole copy each time
    gone = [json.loads(line)["public_id"] for line in (tmp_path / "gone.ndjson").read_text().splitlines()]
    assert len(gone) == len(set(gone)) > 20


@pytest.fixture
def ids(acme, globex, job_of, tmp_path):
    """A list of two of acme's five jobs and of globex's one."""
    jobs = [job_of(acme) for _ in range(5)]
    job_of(globex)
    stays = Job.all_tenants.exclude(pk__in=[job.pk for job in jobs[1:4]])
    path = tmp_path / "ids"
    assert id_list.write_list(str(path), stays, None) == 3
    return path


def prune(ids, **options):
    err = io.StringIO()
    try:
        call_command("prune_jobs", absent_from=str(ids), record=f"{ids}.record", stderr=err, **options)
    except CommandError as error:
        err.write(str(error))
    return err.getvalue()


@pytest.mark.parametrize("batch", [1, 2, 500])
def test_what_is_not_listed_goes(ids, acme, globex, batch):
    assert prune(ids, batch=batch) == "3 jobs, 0 events, 0 artifacts removed\n"
    assert ids.read_text().split("\n")[:3] == [str(each) for each in Job.all_tenants.order_by("pk")]
    assert [counts_of(each) for each in (acme, globex)] == [true_counts(each) for each in (acme, globex)]
    assert prune(ids, batch=batch) == "0 jobs, 0 events, 0 artifacts removed\n"


def test_what_changed_after_the_list_was_made_stays(ids):
    one, *others = Job.all_tenants.exclude(pk__in=ids.read_text().split("\n")[:3]).order_by("pk")
    Job.all_tenants.filter(pk=one.pk).update(updated_at=timezone.now())
    assert prune(ids) == "2 jobs, 0 events, 0 artifacts removed\n"
    assert Job.all_tenants.filter(pk=one.pk).exists()
    assert not Job.all_tenants.filter(pk__in=[job.pk for job in others]).exists()


def test_a_dry_run_counts_and_removes_nothing(ids):
    before = exported()
    assert prune(ids, dry_run=True) == "Dry run, nothing removed: 3 jobs\n"
    assert exported() == before


def test_one_tenants_list_is_for_its_jobs_alone(ids, acme, globex):
    id_list.write_list(str(ids), Job.all_tenants.none(), "acme")
    assert "lists the jobs of acme: --tenant has to say the same" in prune(ids)
    assert "lists the jobs of acme" in prune(ids, tenant="globex")
    assert prune(ids, tenant="acme") == "5 jobs, 0 events, 0 artifacts removed\n"
    assert counts_of(globex) == true_counts(globex) == {"not_started": 1}


@pytest.mark.parametrize(
    ("bent", "said"),
    [
        (lambda lines: lines[:-1], "is incomplete"),
        (lambda lines: lines[1:], "is incomplete"),
        (lambda lines: [], "is incomplete"),
        (lambda lines: [*lines, lines[-1]], "is not a list of jobs"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "follows"),
        (lambda lines: [lines[0], *lines], "follows"),
        (lambda lines: ["", *lines], "is not a ULID"),
        (lambda lines: [lines[0][:20]], "is not a ULID"),
    ],
)
def test_a_list_that_is_not_whole_removes_nothing(ids, bent, said):
    before = exported()
    lines = ids.read_text().splitlines()
    ids.write_text("".join(f"{line}\n" for line in bent(lines)))
    assert said in prune(ids)
    assert exported() == before


def test_a_list_that_is_not_there_is_named(db, tmp_path):
    assert prune(tmp_path / "ids") == f"Cannot read the list of jobs {tmp_path / 'ids'}: No such file or directory"


def test_a_copy_keeps_failures_as_its_original_does(ids):
    assert "--keep-failures goes with --older-than" in prune(ids, keep_failures=True)


def test_it_needs_to_be_given_which_jobs_to_remove(db):
    for options in ([], ["--older-than=90d", "--absent-from=ids"]):
        with pytest.raises(CommandError, match="--older-than"):
            call_command("prune_jobs", *options)


def test_a_stopped_run_resumes_with_the_command_it_prints(ids, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr("jobs.management.commands.prune_jobs.Run.checkpoint_batch", lambda run, *_: False)
        said = prune(ids, batch=2, checkpoint=str(tmp_path / "checkpoint"))
    assert said.startswith("1 job, 0 events, 0 artifacts removed\nStopped. Resume with:\n")
    resume_command = said.splitlines()[-1].split()
    assert resume_command[3:5] == ["--absent-from", str(ids)]
    err = io.StringIO()
    call_command(*resume_command[2:], stderr=err)
    assert Job.all_tenants.count() == 3
