"""``manage.py erase_tenant``."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, transaction

from jobs.artifacts.signing import ArtifactStore, artifact_store
from jobs.ingest import erasure
from jobs.ingest.command_audit import record_command_act
from jobs.management.arguments import MAX_BATCH, at_least
from jobs.management.batches import IncompleteRun, StoppableCommand
from jobs.management.errors import STORE_ERRORS, database_failed, reason
from jobs.management.progress import Progress, counted
from jobs.management.stopping import Stop, command_line, stoppable
from jobs.management.waiting import DatabaseWait
from jobs.models import Artifact, AuditAction, Job, JobEvent
from tenants.models import Tenant, check_storage_prefix


class Command(StoppableCommand):
    help = (
        "Removes a tenant for good, with its jobs, events, artifact rows, counts and tokens; with --objects also its "
        "files in the artifact store. The tenant's credentials stop working at the start. An incomplete run can be "
        "repeated."
    )

    example = "acme --objects --dry-run"
    exit_codes = "0: nothing of the tenant is left; 1: the run is incomplete, or was not confirmed"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", metavar="SLUG", help="The tenant to remove.")
        parser.add_argument(
            "--objects", action="store_true", help="Remove all objects under the tenant's storage prefix too."
        )
        parser.add_argument("--dry-run", action="store_true", help="Count what would be removed and change nothing.")
        parser.add_argument("--yes", action="store_true", help="Do not ask for confirmation.")
        parser.add_argument(
            "--batch",
            metavar="JOBS",
            type=at_least(1, MAX_BATCH),
            default=500,
            help="Jobs in one transaction. Default: %(default)s.",
        )

    def handle(self, *, slug: str, objects: bool, dry_run: bool, yes: bool, batch: int, **options: Any) -> None:
        try:
            tenant = Tenant.objects.get(slug=slug)
        except Tenant.DoesNotExist as error:
            raise CommandError(f"No tenant “{slug}”. It was erased already, or never existed.") from error
        store = self.store_of(tenant) if objects else None
        if dry_run:
            self.stdout.write(f"Dry run, nothing removed: {self.inventory(tenant, store)}")
            return
        if not yes and not self.is_confirmed(tenant, store):
            raise CommandError("Nothing was removed.")
        resume_command = command_line("erase_tenant", slug, ("--objects", objects), ("--yes", True), ("--batch", batch))
        with stoppable() as stop:
            wait = DatabaseWait(stop, self.say)
            try:
                wait.run(partial(self.deactivate, tenant, command_line("erase_tenant", slug, ("--objects", objects))))
                done = self.erase_jobs(tenant, batch, stop, wait)
                removed = self.erase_objects(store, tenant.storage_prefix, stop) if store and not stop.requested else 0
                tokens = None if stop.requested else wait.run(partial(erasure.erase_tenant, tenant))
            except DatabaseError as error:
                raise IncompleteRun(
                    f"{database_failed(error)}\nTenant {slug} is deactivated", resume_command
                ) from error
            except STORE_ERRORS as error:
                why = f"The artifact store failed: {reason(error)}\nTenant {slug} is deactivated"
                raise IncompleteRun(why, resume_command) from error
        if tokens is None:
            raise IncompleteRun(f"Stopped. Tenant {slug} is deactivated", resume_command)
        files = f", {counted(removed, 'object')}" if store else ""
        self.stdout.write(f"Tenant {slug} is removed: {summary(done)}, {counted(tokens, 'token')}{files}")
        if not store:
            self.stdout.write(f"Its files under {tenant.storage_prefix or 'its keys'} are still in the artifact store.")

    @transaction.atomic
    def deactivate(self, tenant: Tenant, command: str) -> None:
        erasure.deactivate(tenant)
        record_command_act(AuditAction.TENANT_ERASED, tenant, command)

    def store_of(self, tenant: Tenant) -> ArtifactStore:
        """The store with the tenant's files. Raises CommandError if the tenant's prefix does not identify them."""
        if not tenant.storage_prefix:
            raise CommandError(f"Tenant {tenant} has no storage prefix, so its objects cannot be identified.")
        try:
            check_storage_prefix(tenant.storage_prefix)
            tenant.clean()  # refuses a prefix that overlaps another
        except ValidationError as error:
            raise CommandError(f"The objects of the tenant cannot be identified. {' '.join(error.messages)}") from error
        return artifact_store()

    def inventory(self, tenant: Tenant, store: ArtifactStore | None) -> str:
        rows = [model.objects.for_tenant(tenant).count() for model in (Job, JobEvent, Artifact)]
        found = f"{summary(erasure.Erased(*rows))}, {counted(tenant.tokens.count(), 'token')}"
        if store is None:
            return found
        objects = 0
        progress = Progress(self.stderr, None, self.name)
        try:
            for some in store.list_versions(tenant.storage_prefix):
                objects += len(some)
                progress.show(objects, f"{counted(objects, 'object')} found")
        except STORE_ERRORS as error:
            raise CommandError(f"Nothing was removed. The artifact store failed: {reason(error)}") from error
        finally:
            progress.clear()
        return f"{found}, {counted(objects, 'object')}"

    def is_confirmed(self, tenant: Tenant, store: ArtifactStore | None) -> bool:
        self.stderr.write(f"This removes tenant {tenant} for good: {self.inventory(tenant, store)}.")
        try:
            return input(f"Type {tenant} to continue: ").strip() == tenant.slug
        except (EOFError, KeyboardInterrupt):
            self.stderr.write("")  # ends the line of the prompt
            return False

    def erase_jobs(self, tenant: Tenant, batch: int, stop: Stop, wait: DatabaseWait) -> erasure.Erased:
        done = erasure.Erased(0, 0, 0)
        total = Job.objects.for_tenant(tenant).count()
        progress = Progress(self.stderr, total, self.name)
        for erased in wait.iterate(partial(erasure.erase_jobs, tenant, batch)):
            done = erasure.Erased(*map(sum, zip(done, erased, strict=True)))
            progress.show(done.jobs, summary(done))
            if stop.requested:
                break
        progress.clear()
        return done

    def erase_objects(self, store: ArtifactStore, prefix: str, stop: Stop) -> int:
        removed = 0
        progress = Progress(self.stderr, None, self.name)
        for some in store.list_versions(prefix):
            store.delete_versions(some)
            removed += len(some)
            progress.show(removed, counted(removed, "object"))
            if stop.requested:
                break
        progress.clear()
        return removed


def summary(erased: erasure.Erased) -> str:
    numbers = {"job": erased.jobs, "event": erased.events, "artifact": erased.artifacts}
    return ", ".join(counted(number, noun) for noun, number in numbers.items())
