"""The one place where references to the artifact store are taken out of what leaves."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from django.conf import settings

from jobs.artifacts.signing import artifact_store

REDACTED = "[redacted]"

# Bounded, so that a long run of backslashes or of "%2525…" costs time in proportion to its length.
_BACKSLASHES = r"\\{0,15}"
_CLOSING = {mark: re.compile(_BACKSLASHES + mark) for mark in "\"'`"}


class Redactor:
    """Takes references to the artifact store out of one tenant's strings: ``s3://…``, URLs that start with one of
    ``store_bases``, and whatever starts with ``storage_prefix``, percent-encoded or JSON-escaped ones too.

    A base is a URL that ends in "/"; scheme, case of the host and a default port do not matter, and "*" in it stands
    for any run of host characters. What was redacted once stays as it is when redacted again. Strings without "/",
    "%" or a backslash cost 0.1 µs. Values may be nested 250 deep; the way in lets 64 through.
    """

    __slots__ = ("_cores", "_mark", "_reference")

    def __init__(self, storage_prefix: str, store_bases: tuple[str, ...]) -> None:
        references = [_spelled("s3://", any_case=True), *map(_url, store_bases)]
        cores = {_core("s3://"), *map(_core, (base.partition("://")[2] for base in store_bases))}
        if storage_prefix:
            references.append(_spelled(storage_prefix))
            cores.add(_core(storage_prefix))
        self._reference = re.compile("|".join(references))
        self._cores = tuple(cores)
        # What every reference has in it, unless it is encoded; a prefix without a "/" leaves nothing to look for.
        self._mark = "/" if "/" in storage_prefix or not storage_prefix else ""

    def may_hold_reference(self, text: str) -> bool:
        """Whether ``text`` is worth a closer look."""
        if not (self._mark in text or "%" in text or "\\" in text):
            return False
        lowered = text.lower()
        return any(core in lowered for core in self._cores)

    def finds_nothing(self, document: str, apart_from: list[str]) -> bool:
        """Whether no string in ``document``, a JSON text, is worth a closer look, but for the storage keys in it.

        Told by how often the core of each reference is there. That of an escaped letter ("\\u0073") is not seen.
        """
        if "\\u" in document:
            return False
        lowered, expected = document.lower(), "\n".join(apart_from).lower()
        return all(lowered.count(core) == expected.count(core) for core in self._cores)

    def text(self, text: str) -> str:
        """``text`` with each reference, up to its closing quote or the end, replaced by ``[redacted]``."""
        if not self.may_hold_reference(text):
            return text
        found = self._reference.search(text)
        if found is None:
            return text
        parts: list[str] = []
        quoting, at = _Quoting(text), 0
        while found:
            parts += text[at : found.start()], REDACTED
            at = quoting.end_of_section(found)
            found = self._reference.search(text, at)
        return "".join(parts) + text[at:]

    def value(self, value: Any) -> Any:
        """A JSON value with its strings and member names redacted; the same object where there was nothing to do."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return self._members(value) if value else value
        if isinstance(value, list):
            clean = [self.value(item) for item in value]
            return clean if any(new is not old for new, old in zip(clean, value, strict=True)) else value
        return value

    def _members(self, members: dict[str, Any]) -> dict[str, Any]:
        clean, names, same = {}, {}, True
        for name, member in members.items():
            clean[name] = value = self.value(member)
            same = same and value is member
            if (text := self.text(name)) is not name:
                names[name] = text
        if not names:
            return members if same else clean
        # A name that was there all along keeps its place; of the others the first in order takes the bare name, so
        # that the numbers do not depend on the order in which a database hands members over.
        taken = members.keys() - names
        for name in sorted(names):
            bare, number = names[name], 1
            while names[name] in taken:
                number += 1
                names[name] = f"{bare} {number}"
            taken.add(names[name])
        return {names.get(name, name): value for name, value in clean.items()}


class _Quoting:
    """Which quotation is open at a place in a text; asked from left to right, it reads the text once.

    A quotation ends at the next mark of its kind that is escaped no more deeply than the mark that opened it, so that
    JSON inside a JSON string ends where it should, and an escaped quote within a quotation does not end it.
    """

    __slots__ = ("_at", "_escapes", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._escapes: int | None = None  # backslashes before the double quote that is open, None where none is

    def end_of_section(self, reference: re.Match[str]) -> int:
        """Where the section that ``reference`` starts ends: before its closing quote, or at the end of the text."""
        start, text = reference.start(), self._text
        for quote in _CLOSING['"'].finditer(text, self._at, start):
            escapes = len(quote[0]) - 1
            if self._escapes is None:
                self._escapes = escapes
            elif escapes <= self._escapes:
                self._escapes = None
        self._at = end = self._closing(start, reference.end())
        return end

    def _closing(self, start: int, after: int) -> int:
        before = self._text[max(0, start - 16) : start]
        opened = []
        if before and before[-1] in _CLOSING:
            opened.append((before[-1], len(before) - 1 - len(before[:-1].rstrip("\\"))))
        if self._escapes is not None:
            opened.append(('"', self._escapes))
        for mark, escapes in opened:
            for quote in _CLOSING[mark].finditer(self._text, after):
                if len(quote[0]) - 1 <= escapes:
                    return quote.start()
        return len(self._text)


def _spelled(text: str, any_case: bool = False) -> str:
    """A pattern for ``text`` as it stands, with what URLs and JSON escape also percent-encoded and escaped."""
    return "".join(_spelled_character(character, any_case) for character in text)


@lru_cache(maxsize=1024)
def _spelled_character(character: str, any_case: bool) -> str:
    if character.isascii() and (character.isalnum() or character in "-._~"):
        return f"[{character.lower()}{character.upper()}]" if any_case and character.isalpha() else re.escape(character)
    octets = character.encode(errors="surrogatepass")
    units = character.encode("utf-16-be", errors="surrogatepass")
    percent = "".join(rf"%(?:25){{0,8}}{_hexadecimal(octets[i : i + 1])}" for i in range(len(octets)))
    json = "".join(rf"\\{{1,15}}u{_hexadecimal(units[i : i + 2])}" for i in range(0, len(units), 2))
    return f"(?:{_BACKSLASHES}{re.escape(character)}|{percent}|{json})"


def _core(reference: str) -> str:
    """The longest part of a reference that no encoding touches, in lower case."""
    return max(re.split(r"[^0-9A-Za-z._~-]+", reference), key=len).lower()


def _hexadecimal(octets: bytes) -> str:
    return "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in octets.hex())


def _url(base: str) -> str:
    """A pattern for the start of a URL below ``base``: with its scheme, without it, or from the host on."""
    scheme, _, rest = base.partition("://")
    authority, slash, path = rest.partition("/")
    host, _, port = authority.removesuffix({"http": ":80", "https": ":443"}.get(scheme, "")).rpartition(":")
    if not port.isdecimal():
        host, port = authority, ""
    at = "[A-Za-z0-9.-]{0,63}".join(_spelled(part, any_case=True) for part in host.split("*")) + r"\.?"
    colon = _spelled(":")
    at += _spelled(f":{port}") if port else f"(?:{colon}(?:80|443))?"
    return f"(?:(?:[hH][tT][tT][pP][sS]?{colon})?{_spelled('//')})?{at}{_spelled(slash + path)}"


_cached = lru_cache(maxsize=4096)(Redactor)


def redactor(storage_prefix: str, base_url: str) -> Redactor:
    """The redactor of one tenant's answers to requests that came to ``base_url`` ("https://jobs.example.com").

    Links to local files are references under the gateway's own addresses. Cached: 1 ms the first time, then 2 µs.
    """
    own = (f"{base.rstrip('/')}/artifacts/" for base in (settings.PUBLIC_BASE_URL, base_url) if base)
    return _cached(storage_prefix, (*artifact_store().store_bases, *own))
