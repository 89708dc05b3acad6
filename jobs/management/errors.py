"""Failures of files, of the artifact store and of the database, as messages for the person who runs a command."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile

from botocore.exceptions import BotoCoreError, ClientError
from django.core.management.base import CommandError
from django.db import InterfaceError, OperationalError

from jobs.artifacts.s3 import StoreRefused

DATABASE_ERRORS = (OperationalError, InterfaceError)
STORE_ERRORS = (OSError, BotoCoreError, ClientError, StoreRefused)
# Of a file or an object of a bucket. gzip raises EOFError for a file that was cut, zlib.error for a damaged one.
READ_ERRORS = (*STORE_ERRORS, EOFError, zlib.error)


class FileError(CommandError):
    """A file that cannot be read or written. The message names it and says why."""


def reason(error: Exception) -> str:
    """The reason in one line: the system's text of an errno, else the first line of the message."""
    if isinstance(error, EOFError):
        return "it was cut off, or is still being written"
    if isinstance(error, zlib.error | BadGzipFile):
        return f"its gzip data is damaged ({error})"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip().partition("\n")[0]


def database_failed(error: Exception) -> str:
    return f"The database failed: {reason(error).removesuffix('.')}"


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns a failure to read the file ``name`` into a FileError."""
    try:
        yield
    except READ_ERRORS as error:
        raise FileError(f"Cannot read {name}: {reason(error)}") from error


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Turns a failure to write the file ``name`` into a FileError. A closed pipe stays a BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError(f"Cannot write {name}: {reason(error)}") from error
