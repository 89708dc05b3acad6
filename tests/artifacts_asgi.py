"""The ASGI application of local artifacts alone, for tests of it behind a real server."""

import os

import django

django.setup()

from jobs.artifacts import downloads  # noqa: E402 - needs Django's settings

downloads.SEND_TIMEOUT_SECONDS = int(os.environ["SEND_TIMEOUT_SECONDS"])
application = downloads.download
