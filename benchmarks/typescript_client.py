"""What the TypeScript client costs beside bare ``fetch``: a list, a followed job and downloads, in one run.

    python -m benchmarks.typescript_client [--rounds 21]

Needs Node, and the client as ``make typescript-types`` builds it. Prints, for each task, the median ratio of the
client's time to that of fetch, the same ratio of the Node process's CPU time, and the milliseconds of fetch.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ulid import ULID

from benchmarks.servers import serving
from tests.servers import temporary_folder

ROOT = Path(__file__).resolve().parent.parent
JOBS = 1000
EVENTS = 500  # of the followed job
PICTURES = 20
PICTURE_BYTES = 200_000
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.typescript_client")
    parser.add_argument(
        "--rounds", type=int, default=21, help="turns of client and fetch at each task; 21 unless given"
    )
    for name, ratios in measure(parser.parse_args().rounds).items():
        print(f"{name}: {ratios['time']}x the time, {ratios['cpu']}x the CPU time (fetch: {ratios['ms']} ms)")


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """By task: ``time`` and ``cpu`` as ratios to fetch, and ``ms`` of fetch."""
    node = shutil.which("node")
    if node is None:
        raise SystemExit("Node is not installed.")
    with temporary_folder("jgw-bench-") as folder:
        database_url = f"sqlite:///{folder / 'store.sqlite3'}"
        environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": "jobs_gateway.settings",
            "DATABASE_URL": database_url,
            "DATA_DIR": str(folder),
            "ENV_FILE": os.devnull,
            "ACCESS_LOG": "0",
        }
        manage(environment, "migrate", "--verbosity", "0")
        manage(environment, "create_tenant", "bench")
        token = manage(environment, "issue_token", "bench").split()[-1]
        followed = write(folder)
        manage(environment, "backfill_jobs", str(folder / "jobs.ndjson"))
        with serving("gateway", environment, token, folder) as gateway:
            given = {
                "GATEWAY_URL": f"http://127.0.0.1:{gateway.port}",
                "JOBS_GATEWAY_TOKEN": token,
                "JOB": followed,
                "ROUNDS": str(rounds),
            }
            script = Path(__file__).with_suffix(".mjs")
            printed = subprocess.run([node, script], env=environment | given, check=True, capture_output=True).stdout
    return json.loads(printed)


def manage(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(
        [sys.executable, ROOT / "manage.py", *command],
        env=environment,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout


def write(folder: Path) -> str:
    """Writes jobs and pictures of the tenant ``bench``; returns the id of the job that is followed."""
    pictures = folder / "artifacts" / "tenants" / "bench"
    pictures.mkdir(parents=True)
    for number in range(PICTURES):
        (pictures / f"{number}.png").write_bytes(random.Random(number).randbytes(PICTURE_BYTES))
    with (folder / "jobs.ndjson").open("w") as file:
        for number in range(JOBS):
            file.write(json.dumps(record(number)) + "\n")
    return record(0)["public_id"]


def record(number: int) -> dict[str, Any]:
    """The interchange record of a job; the first one has all the events and pictures."""
    at = FIRST + timedelta(seconds=number)
    key = "tenants/bench/{}.png"
    finals = [{"storage_key": key.format(n), "kind": "render", "role": "final"} for n in range(PICTURES)]
    stages = EVENTS - 1 if number == 0 else 1
    events: list[dict[str, Any]] = [
        {"seq": n + 1, "event_type": "stage", "message": f"Rendering, pass {n}", "extra": {"progress": n / stages}}
        for n in range(stages)
    ]
    events.append({"seq": stages + 1, "event_type": "succeeded", "artifacts": finals if number == 0 else []})
    return {
        "public_id": str(ULID.from_int((int(at.timestamp() * 1000) << 80) + number)),
        "tenant": "bench",
        "job_type": "MODEL_GENERATOR",
        "created_at": at.isoformat(),
        "events": [event | {"created_at": at.isoformat()} for event in events],
    }


if __name__ == "__main__":
    main()
