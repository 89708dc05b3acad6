"""Which storage keys are valid; checked when an artifact is recorded, and again when its URL is signed."""

from __future__ import annotations


def check_storage_key(key: str, prefix: str) -> None:
    """Raises ValueError if ``key`` is not valid. ``prefix`` is the tenant's, "" for no prefix check.

    The message names the rule, never the key: it can be logged and shown.
    """
    if not key:
        raise ValueError("The storage key is empty.")
    if "\0" in key:
        raise ValueError("The storage key holds a NUL character.")
    if key[0] == "/":
        raise ValueError("The storage key starts with “/”; keys are relative to the artifact store.")
    # Clients normalise such a path, so the URL would no longer match its signature, or would name another object.
    if (key[0] == "." or "/." in key) and not {".", ".."}.isdisjoint(key.split("/")):
        raise ValueError("The storage key has “.” or “..” as a segment.")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise ValueError("The storage key holds a lone surrogate, which no URL can carry.") from None
    if not key.startswith(prefix):
        raise ValueError("The storage key lies outside the tenant's storage prefix.")
