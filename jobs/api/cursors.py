"""Cursors: where a page ended, encrypted and authenticated, and bound to one list of one tenant.

AES-SIV (RFC 5297) is deterministic: the same page has the same cursor, so that repeated answers are identical. A cursor
grants no access and reveals nothing, not even the number of the tenant's row.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from jobs.api.keys import accepted_keys, current_key

_PURPOSE = "cursors"


class BadCursor(ValueError):
    """The text is not a cursor of this gateway, or it belongs to another list or tenant."""


def encrypt_cursor(place: object, bound_to: object) -> str:
    """A cursor in base64url. Both arguments are JSON values. Decrypting returns only ``place``."""
    sealed = _cipher(current_key(_PURPOSE)).encrypt(orjson.dumps(place), [orjson.dumps(bound_to)])
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def decrypt_cursor(cursor: str, bound_to: object) -> Any:
    """The ``place`` that was encrypted for the same ``bound_to``, with the current key or an earlier one.

    Raises BadCursor.
    """
    try:
        sealed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except ValueError as error:  # not ASCII, not base64
        raise BadCursor from error
    # Decoding drops some bits and ignores padding. Without this check one place would have several cursors.
    if base64.urlsafe_b64encode(sealed).rstrip(b"=") != cursor.encode():
        raise BadCursor
    associated = [orjson.dumps(bound_to)]
    for key in accepted_keys(_PURPOSE):
        try:
            return orjson.loads(_cipher(key).decrypt(sealed, associated))
        except (InvalidTag, ValueError):  # ValueError: shorter than a tag
            continue
    raise BadCursor


@lru_cache(maxsize=16)
def _cipher(key: bytes) -> AESSIV:
    return AESSIV(key)
