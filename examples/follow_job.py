"""Follows one job to its end and downloads its pictures: python follow_job.py URL PUBLIC_ID FOLDER

The token is in the environment variable JOBS_GATEWAY_TOKEN. Needs: pip install clients/python
"""

import sys
from pathlib import Path

from jobs_gateway_client import Client, JobsGatewayError


def main(url: str, public_id: str, folder: str) -> int:
    with Client(url) as client:
        for event in client.jobs.events(public_id):
            print(event.seq, event.event_type, event.message)
        job = client.jobs.get(public_id)
        for number, picture in enumerate(job.result, start=1):
            print("saved", picture.download(Path(folder) / f"{number}-{picture.kind}.png"))
    return 0 if job.status == "SUCCESS" else 1


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except JobsGatewayError as error:
        sys.exit(str(error))
