"""``manage.py erase_tenant``."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from jobs.artifacts.s3 import StoreRefused
from jobs.artifacts.signing import ArtifactStore, artifact_store
from jobs.ingest import erasure
from jobs.management.arguments import at_least
from jobs.management.batches import IncompleteRun, StoppableCommand
from jobs.management.progress import Progress
from jobs.management.stopping import Stop, command_line, stoppable
from jobs.models import Artifact, Job, JobEvent
from tenants.models import Tenant, check_storage_prefix


class Command(StoppableCommand):
    help = (
        "Removes a tenant with its jobs, events, artifacts' rows, counts and tokens, for good; with --objects also its "
        "files in the artifact store. From the start on its credentials open nothing. A run that was cut short may "
        "simply be run again."
    )

    example = "acme --objects --dry-run"
    exit_codes = "0: nothing of the tenant is left; 1: it was stopped, or not allowed to begin"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", metavar="SLUG", help="The tenant to remove.")
        parser.add_argument(
            "--objects", action="store_true", help="Remove everything under the tenant's storage prefix too."
        )
        parser.add_argument("--dry-run", action="store_true", help="Count what would go and remove nothing.")
        parser.add_argument("--yes", action="store_true", help="Do not ask.")
        parser.add_argument(
            "--batch",
            metavar="JOBS",
            type=at_least(1),
            default=500,
            help="Jobs in one transaction; %(default)s unless given.",
        )

    def handle(self, *, slug: str, objects: bool, dry_run: bool, yes: bool, batch: int, **options: Any) -> None:
        try:
            tenant = Tenant.objects.get(slug=slug)
        except Tenant.DoesNotExist as error:
            raise CommandError(f"No tenant “{slug}”: nothing is left of it, or it never was.") from error
        store = self.store_of(tenant) if objects else None
        if dry_run:
            self.stdout.write(f"Dry run, nothing removed: {self.inventory(tenant, store)}")
            return
        if not yes and not self.is_confirmed(tenant, store):
            raise CommandError("Nothing was removed.")
        erasure.deactivate(tenant)
        resume_command = command_line("erase_tenant", slug, ("--objects", objects), ("--yes", True), ("--batch", batch))
        with stoppable() as stop:
            try:
                done = self.erase_jobs(tenant, batch, stop)
                removed = self.erase_objects(store, tenant.storage_prefix, stop) if store and not stop.requested else 0
            except (DatabaseError, OSError, BotoCoreError, ClientError, StoreRefused) as error:
                raise IncompleteRun(f"{error}\nTenant {slug} is closed", resume_command) from error
        if stop.requested:
            raise IncompleteRun(f"Stopped; tenant {slug} is closed", resume_command)
        tokens = erasure.erase_tenant(tenant)
        files = f", {removed:,} objects" if store else ""
        self.stdout.write(f"Tenant {slug} is gone: {summary(done)}, {tokens:,} tokens{files}")
        if not store:
            self.stdout.write(f"Its files under {tenant.storage_prefix or 'its keys'} are still in the artifact store.")

    def store_of(self, tenant: Tenant) -> ArtifactStore:
        """Where the tenant's files are. Raises CommandError unless its prefix says which they are."""
        if not tenant.storage_prefix:
            raise CommandError(f"Tenant {tenant} has no storage prefix, so nothing says which objects are its own.")
        try:
            check_storage_prefix(tenant.storage_prefix)
            tenant.clean()  # of two overlapping prefixes, neither says it
        except ValidationError as error:
            raise CommandError(f"The objects cannot be told from others. {' '.join(error.messages)}") from error
        return artifact_store()

    def inventory(self, tenant: Tenant, store: ArtifactStore | None) -> str:
        rows = [model.objects.for_tenant(tenant).count() for model in (Job, JobEvent, Artifact)]
        found = f"{summary(erasure.Erased(*rows))}, {tenant.tokens.count():,} tokens"
        return f"{found}, {sum(map(len, store.list_versions(tenant.storage_prefix))):,} objects" if store else found

    def is_confirmed(self, tenant: Tenant, store: ArtifactStore | None) -> bool:
        self.stderr.write(f"This removes tenant {tenant} for good: {self.inventory(tenant, store)}.")
        try:
            return input(f"Type {tenant} to go on: ").strip() == tenant.slug
        except EOFError:
            return False

    def erase_jobs(self, tenant: Tenant, batch: int, stop: Stop) -> erasure.Erased:
        done = erasure.Erased(0, 0, 0)
        total = Job.objects.for_tenant(tenant).count()
        progress = Progress(self.stderr, total, self.name)
        for erased in erasure.erase_jobs(tenant, batch):
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
            progress.show(removed, f"{removed:,} objects")
            if stop.requested:
                break
        progress.clear()
        return removed


def summary(erased: erasure.Erased) -> str:
    return f"{erased.jobs:,} jobs, {erased.events:,} events, {erased.artifacts:,} artifacts"
