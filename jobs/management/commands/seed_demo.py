"""Creates a demo tenant with jobs of every type and status, and their images."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone
from ulid import ULID

from jobs.demo.access import DEMO
from jobs.demo.pictures import store_picture
from jobs.demo.records import demo_records
from jobs.ingest import bulk
from jobs.management.progress import counted
from jobs.models import Job
from tenants.models import Tenant


class Command(BaseCommand):
    help = (
        "Creates the tenant “demo” with a few dozen jobs of every type and status, and draws their images into the "
        "artifact store. Times are relative to now. Jobs and images that exist already are not changed. "
        "Example: manage.py seed_demo --dry-run"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Report what would be created and change nothing.")

    def handle(self, *args: Any, dry_run: bool, **options: Any) -> None:
        demo = Tenant.objects.filter(slug=DEMO).first() or Tenant(slug=DEMO, name="Demo Studio")
        demo_jobs = {
            ULID.from_str(builder.record["public_id"]): builder for builder in demo_records(demo, timezone.now())
        }
        existing = set(Job.all_tenants.filter(pk__in=demo_jobs).values_list("pk", flat=True))
        missing = [builder for public_id, builder in demo_jobs.items() if public_id not in existing]
        pictures = [picture for builder in missing for picture in builder.pictures]
        summary = (
            f"{counted(len(missing), 'job')}, {counted(len(pictures), 'picture')}, "
            f"{counted(len(existing), 'job')} unchanged"
        )
        if dry_run:
            self.stdout.write(f"Would create for tenant {DEMO}: {summary}.")
            return
        demo.full_clean()
        demo.save()
        # Images first, so that no job is shown without its images.
        for picture in pictures:
            store_picture(picture)
        for builder in missing:
            bulk.load_record(builder.record)
        self.stdout.write(f"Tenant {DEMO}: {summary}.")
