"""Removes references to the artifact store from strings of an API response (CONTRACT.md, section 5)."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from django.conf import settings

from jobs.artifacts.signing import artifact_store

REDACTED = "[redacted]"

# Encodings inside encodings, such as JSON in a URL in JSON, are decoded this many times at most.
MAX_DECODINGS = 4
_PERCENT, _MORE = r"%(?:25)*", r"%(?:25)*[89abAB][0-9a-fA-F]"
# One encoded character: percent-encoded (an octet of ASCII, or two to four of UTF-8), one of JSON's \u escapes (or the
# two of a surrogate pair), or backslashes before a character that needs none ("\/").
_ENCODED = re.compile(
    rf"{_PERCENT}(?:[0-7][0-9a-fA-F]|[cCdD][0-9a-fA-F]{_MORE}|[eE][0-9a-fA-F]{_MORE}{_MORE}|[fF][0-7]{_MORE}{_MORE}{_MORE})"
    r"|(?<!\\)\\+(?:u[dD][89abAB][0-9a-fA-F]{2}\\+u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^0-9A-Za-z\\])"
)
# Of the characters that no URL needs to encode (RFC 3986: letters, digits, "-._~") and of the backslash. What is
# encoded otherwise cannot hide the core of a reference.
_ENCODED_CORE = re.compile(r"%(?:25)*(?:3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|2[dDeE]|5[cCfF]|7[eE])")
_CLOSING = {mark: re.compile(rf"\\{{0,15}}{mark}") for mark in "\"'`"}

# Patterns of parts of a reference, all of them bounded, so that the time is proportional to the length of the text.
_SLASH = r"/(?:\.?/)*"  # "//" and "/./" are a "/" to most servers
_PORT = r"(?::[0-9]{0,5})?"
_USERINFO = r"(?:[^\s/?#@\"'`]{0,256}@)?"
_SUBDOMAINS = r"(?:[A-Za-z0-9_-]{1,63}\.){0,8}?"
_SCHEME = rf"(?:(?i:https?):)?//{_USERINFO}{_SUBDOMAINS}"
# The end of a host or of a path, so that another host or path that begins alike is not taken for it.
_END = rf"(?![\w~-]|\.\w|{re.escape(REDACTED)})"


class Redactor:
    """Replaces references to the artifact store in one tenant's strings.

    A reference starts with ``s3://`` (``s3a://``, ``s3n://``), the ARN of an S3 resource, a URL of ``base_urls``, or
    ``storage_prefix``, and may be percent-encoded or JSON-escaped, wholly or in part. It ends before the closing quote,
    or at the end of the string.

    A base is a URL that ends in "/". "*" in it stands for any run of host characters. The scheme, the port, a user
    name, subdomains, the case of the host and "//" or "/./" in the path make no difference. If the base has no path,
    its host alone is a reference: in a URL, with a port, or if it has a dot. A redacted string stays as it is when it
    is redacted again. Strings without a reference cost about 0.3 µs. Values may be nested 250 deep; ingest accepts 64.
    """

    __slots__ = ("_cores", "_ignores_words", "_reference")  # each reference has a core in it, unless it is encoded

    def __init__(self, storage_prefix: str, base_urls: tuple[str, ...]) -> None:
        references = ["(?i:s3[an]?)://", "(?i:arn:aws[a-z-]{0,12}:s3[a-z0-9-]{0,32}:)"]
        references.append(rf"{_SCHEME}(?:{'|'.join(map(_address, base_urls))})")
        references.append(rf"(?<![\w-])(?:{'|'.join(map(_bare_address, base_urls))})")
        self._cores = ["s3"]
        for reference in (*map(_without_scheme_and_port, base_urls), storage_prefix):
            parts = _plain_parts(reference)
            if reference and not any(core in part for core in self._cores for part in parts):
                self._cores.append(max(parts, key=len))
        if storage_prefix:
            references.append(_path(storage_prefix))
        # References have a "/", ":" or "." in them, but for a prefix without a slash.
        self._ignores_words = not storage_prefix or "/" in storage_prefix
        self._reference = re.compile("|".join(references))

    def is_clean(self, document: str, storage_keys: list[str]) -> bool:
        """Whether no string in ``document``, a JSON text, holds a reference, except for the storage keys in it.

        Compares how often each core occurs in the document and in the keys, so the answer may be a wrong False.
        """
        if "\\u" in document or ("%" in document and _ENCODED_CORE.search(document)):
            return False
        lowered, expected = document.lower(), "\n".join(storage_keys).lower()
        return all(lowered.count(core) == expected.count(core) for core in self._cores)

    def redact_text(self, text: str) -> str:
        """``text`` with each reference, up to its closing quote or the end, replaced by ``[redacted]``."""
        if self._ignores_words and text.isidentifier():  # most names of members are words
            return text
        lowered = text.lower()
        for core in self._cores:
            if core in lowered:
                return self._redacted(text)
        if "\\u" in text or ("%" in text and _ENCODED_CORE.search(text)):
            return self._redacted(text)
        return text

    def _redacted(self, text: str) -> str:
        found = sorted(span for decoding in _decodings(text) for span in self._spans(decoding))
        if not found:
            return text
        parts: list[str] = []
        quoting, at = _Quoting(text), 0
        for start, end in found:
            if start >= at:
                parts += text[at:start], REDACTED
                at = quoting.end_of_section(start, end)
        return "".join(parts) + text[at:]

    def _spans(self, decoding: _Decoding) -> Iterator[tuple[int, int]]:
        """Where references start and end, in the text before it was decoded."""
        lowered = decoding.text.lower()
        if not any(core in lowered for core in self._cores):
            return
        for found in self._reference.finditer(decoding.text):
            yield decoding.origin(found.start()), decoding.origin(found.end())

    def redact_value(self, value: Any) -> Any:
        """A JSON value with its strings and member names redacted; the same object where there was nothing to do."""
        if isinstance(value, str):
            return self.redact_text(value)
        if isinstance(value, dict):
            return self._members(value) if value else value
        if isinstance(value, list):
            clean = [self.redact_value(item) for item in value]
            return clean if any(new is not old for new, old in zip(clean, value, strict=True)) else value
        return value

    def _members(self, members: dict[str, Any]) -> dict[str, Any]:
        clean, names, same = {}, {}, True
        for name, member in members.items():
            clean[name] = value = self.redact_value(member)
            same = same and value is member
            if (text := self.redact_text(name)) is not name:
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


class _Decoding:
    """A text with one level of encoding removed, and where its characters come from."""

    __slots__ = ("_before", "_origins", "_places", "text")

    def __init__(self, text: str, before: _Decoding | None = None) -> None:
        """``text`` as it is, or the result of ``decoded`` on ``before``."""
        self.text = text
        self._before = before
        # Character ``_places[n]`` comes from ``_origins[n]`` on; up to the next of them, one from each.
        self._places = [0]
        self._origins = [0]

    def decoded(self) -> _Decoding:
        result, at, length = _Decoding("", self), 0, 0
        text, places, origins = self.text, result._places, result._origins
        parts: list[str] = []
        for found in _ENCODED.finditer(text):
            start, end = found.span()
            length += start - at
            character = _decoded_character(found[0])
            parts += text[at:start], character
            places.append(length)
            origins.append(start)
            length += len(character)
            places.append(length)
            origins.append(end)
            at = end
        result.text = "".join(parts) + text[at:]
        return result

    def origin(self, place: int) -> int:
        """Where in the original text character ``place`` starts."""
        if self._before is None:
            return place
        index = bisect_right(self._places, place) - 1
        return self._before.origin(self._origins[index] + place - self._places[index])


def _decodings(text: str) -> Iterator[_Decoding]:
    """The text as it is, then decoded once, twice and so on, while that changes it."""
    decoding = _Decoding(text)
    yield decoding
    if "%" not in text and "\\" not in text:
        return
    for _ in range(MAX_DECODINGS):
        before, decoding = decoding, decoding.decoded()
        if decoding.text == before.text:
            return
        yield decoding


def _decoded_character(encoded: str) -> str:
    """The character of a match of ``_ENCODED``; the match itself if it is not UTF-8."""
    if encoded[0] == "%":
        if encoded[-2] in "01234567":
            return chr(int(encoded[-2:], 16))
        try:
            return bytes.fromhex(re.sub(_PERCENT, "", encoded)).decode()
        except UnicodeDecodeError:
            return encoded
    escaped = encoded.lstrip("\\")
    if len(escaped) == 1:
        return escaped
    units = "".join(re.findall("u([0-9a-fA-F]{4})", escaped))
    return bytes.fromhex(units).decode("utf-16-be", "surrogatepass")


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

    def end_of_section(self, start: int, end: int) -> int:
        """Where what a reference from ``start`` to ``end`` begins ends: before its closing quote, or with the text."""
        text = self._text
        for quote in _CLOSING['"'].finditer(text, self._at, start):
            escapes = len(quote[0]) - 1
            if self._escapes is None:
                self._escapes = escapes
            elif escapes <= self._escapes:
                self._escapes = None
        self._at = self._closing(start, end)
        return self._at

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


def _path(path: str) -> str:
    """A pattern for ``path``, in which each "/" may be several, and each space a "+", as in forms."""
    return _SLASH.join(re.escape(part).replace(r"\ ", "[ +]") for part in path.split("/"))


def _plain_parts(reference: str) -> list[str]:
    """The parts of a reference that URLs and JSON leave as they are, in lower case."""
    return re.split(r"[^0-9a-z._~-]+", reference.lower())


def _without_scheme_and_port(base: str) -> str:
    authority, _, path = base.partition("://")[2].partition("/")
    return f"{re.sub(':[0-9]+$', '', authority)}/{path}"


def _address(base: str, port: str = _PORT) -> str:
    """A pattern for the start of a URL below ``base``, from its host on."""
    host, _, path = _without_scheme_and_port(base).partition("/")
    name = "[A-Za-z0-9.-]{0,63}".join(re.escape(part) for part in host.split("*"))
    path = f"{_SLASH}{_path(path.rstrip('/'))}" if path else ""
    return rf"(?i:{name})\.?{port}{path}{_END}"


def _bare_address(base: str) -> str:
    """The same for a URL without its scheme. A host without a dot ("minio") may be a word: its port must follow."""
    host, _, path = _without_scheme_and_port(base).partition("/")
    return _address(base) if path or "." in host or ":" in host else _address(base, ":[0-9]{1,5}")


@lru_cache(maxsize=4096)
def _cached(storage_prefix: str, store_urls: tuple[str, ...], *origins: str) -> Redactor:
    return Redactor(
        storage_prefix, (*store_urls, *(f"{origin.rstrip('/')}/artifacts/" for origin in origins if origin))
    )


def redactor(storage_prefix: str, base_url: str) -> Redactor:
    """The redactor of one tenant's answers to requests that came to ``base_url`` ("https://jobs.example.com").

    Links to local files are references under the gateway's own addresses. Cached: 1 ms the first time, then 2 µs.
    """
    return _cached(storage_prefix, artifact_store().base_urls, settings.PUBLIC_BASE_URL, base_url)
