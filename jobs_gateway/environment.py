"""Settings from the environment and from the settings file. Values are literal: nothing in them is expanded.

What can be read in two ways raises ImproperlyConfigured, which names the setting or the line and says what to write.
Secrets are never quoted in it.
"""

from __future__ import annotations

import builtins
import re
from collections import Counter
from collections.abc import MutableMapping, Sequence
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from django.core.exceptions import ImproperlyConfigured

_LINE = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*(.*?)[ \t]*", re.DOTALL)
# A value in quotation marks, and a comment behind it. A backslash between double ones is an escape for some programs
# and a character for others, so it is left to single ones.
_QUOTED = re.compile(r"""(?:'([^']*)'|"([^"\\]*)")(?:[ \t]+\#.*)?""", re.DOTALL | re.VERBOSE)
_QUOTATION_MARKS = "'\"“”„‘’`"

# Names that Django, boto3, libpq, Python and its HTTP clients read, and that could be taken for misspelled settings.
_FOREIGN = re.compile(
    r"PG[A-Z]+|PYTHON[A-Z]*|LANG|LC_[A-Z]+|TZ|(HTTPS?|NO|ALL)_PROXY|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|"
    r"DJANGO_(SETTINGS_MODULE|SUPERUSER_[A-Z]+|COLORS|ALLOW_ASYNC_UNSAFE|TEST_PROCESSES|RUNSERVER_HIDE_WARNING)|"
    r"AWS_(ENDPOINT_URL(_[A-Z0-9_]+)?|SECURITY_TOKEN|S3_(DISABLE_EXPRESS_SESSION_AUTH|US_\w+|USE_ARN_REGION))",
    re.IGNORECASE,
)
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# Kubernetes and Docker describe a service named "database" in variables that look like settings.
_SERVICE = re.compile(r".+_(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))(_.+)?")


class UnknownName(NamedTuple):
    """A variable that looks like a setting and is none."""

    name: str
    meant: str  # the setting with the most similar name; "" where none is similar
    in_file: bool


class Environment:
    """Settings by name and type. Raises ImproperlyConfigured for a value that its type cannot have."""

    def __init__(self, variables: MutableMapping[builtins.str, builtins.str]) -> None:
        self._variables = variables
        self._names: set[builtins.str] = set()
        # What the file added to the variables: a child process that reads the file again must not inherit it.
        self.from_file: dict[builtins.str, builtins.str] = {}

    def read_file(self, name: builtins.str, default: Path) -> None:
        """Adds the variables of the file that the setting ``name`` names, else of ``default`` if that exists."""
        named = self.str(name)
        path = Path(named or default)
        try:
            content = path.read_bytes()
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not named:
                return
            raise ImproperlyConfigured(
                f"{path} cannot be read: {error.strerror}. {name} names the settings file."
            ) from None
        given = parse_file(content, str(path))
        self.from_file = {name: value for name, value in given.items() if name not in self._variables}
        self._variables.update(self.from_file)

    def str(self, name: builtins.str, default: builtins.str = "") -> builtins.str:
        """The value as it is written, or ``default`` where there is none."""
        value = self._value(name)
        return default if value is None else value

    def bool(self, name: builtins.str, default: builtins.bool) -> builtins.bool:
        value = self._matching(name, r"(?i:(1|true|yes|on)|0|false|no|off)", "Write 1 or 0.")
        return default if value is None else bool(value[1])

    def int(self, name: builtins.str, default: builtins.int) -> builtins.int:
        value = self._matching(name, r"-?[0-9]{1,18}", "Write a whole number, without a unit.")
        return default if value is None else int(value[0])

    def float(self, name: builtins.str, default: builtins.float) -> builtins.float:
        value = self._matching(name, r"-?[0-9]{1,18}(\.[0-9]+)?", "Write a number, without a unit.")
        return default if value is None else float(value[0])

    def list(self, name: builtins.str, default: Sequence[builtins.str] = ()) -> builtins.list[builtins.str]:
        """Comma separated; spaces around an item and empty items do not count."""
        value = self._value(name)
        return [*default] if value is None else [item for each in value.split(",") if (item := each.strip())]

    def networks(self, name: builtins.str) -> builtins.list[IPv4Network | IPv6Network]:
        """Addresses and networks, comma separated."""
        try:
            return [ip_network(item) for item in self.list(name)]
        except ValueError as error:
            advice = "Write addresses and networks, comma separated, such as 10.0.0.0/8,192.0.2.1."
            raise ImproperlyConfigured(f"{name}: {error}. {advice}") from None

    def unknown_names(self) -> builtins.list[UnknownName]:
        """Variables that look like settings and are none. Call it when every setting was read.

        In the file: every name that nothing reads. In the environment, which holds much else: names that are similar
        to a setting's, and those that begin like two settings at least (DATABASE_, DJANGO_, …).
        """
        families = {family for family, count in Counter(map(_family, self._names)).items() if count > 1}
        known = sorted(self._names.union(_CREDENTIALS))
        unknown = []
        for name in sorted(self._variables.keys() - set(known)):
            upper, in_file = name.upper(), name in self.from_file
            is_service = _SERVICE.fullmatch(name) or (name.endswith("_PORT") and "://" in self._variables[name])
            if _FOREIGN.fullmatch(name) or (is_service and not in_file):
                continue
            [meant] = get_close_matches(upper, known, 1, cutoff=0.8) or [""]
            if meant or _family(upper) in families or (in_file and not upper.startswith("AWS_")):
                unknown.append(UnknownName(name, meant, in_file))
        return unknown

    def _value(self, name: builtins.str) -> builtins.str | None:
        self._names.add(name)
        value = self._variables.get(name)
        if value and not value.isprintable():
            raise ImproperlyConfigured(
                f"{name} holds an invisible character, such as a line break at its end. Remove it."
            )
        if value and len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            raise ImproperlyConfigured(
                f"{name} begins and ends with a quotation mark, as docker --env-file passes them on. Leave both out."
            )
        return value

    def _matching(self, name: builtins.str, pattern: builtins.str, advice: builtins.str) -> re.Match | None:
        value = self._value(name)
        if value is None:
            return None
        match = re.fullmatch(pattern, value.strip())
        if match is None:
            raise ImproperlyConfigured(f"{name} is {value!r}. {advice}")
        return match


def _family(name: str) -> str:
    return "_".join(name.split("_")[: 2 if name.startswith("AWS_") else 1])


def parse_file(content: bytes, path: str) -> dict[str, str]:
    """The variables in ``content``: a ``NAME=value`` a line, ``export`` before it, in single or double quotes or none.

    Empty lines and those that begin with ``#`` are skipped. Raises ImproperlyConfigured, with the line's number and
    without its text, for every other line, and for one that other programs would read differently.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ImproperlyConfigured(f"{path}, line {number}: this is no UTF-8 text. Save the file as UTF-8.") from None
    variables: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")  # noqa: PLW2901
        if not line.strip(" \t") or line.lstrip(" \t").startswith("#"):
            continue
        try:
            name, value = _parse_line(line)
            if name in numbers:
                raise ValueError(f"{name} is on line {numbers[name]} too. Keep one of them.")
        except ValueError as error:
            raise ImproperlyConfigured(f"{path}, line {number}: {error}") from None
        variables[name], numbers[name] = value, number
    return variables


def _parse_line(line: str) -> tuple[str, str]:
    if not line.replace("\t", " ").isprintable():
        raise ValueError("there is an invisible character here. Remove it.")
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError("this is not NAME=value.")
    name, value = match[1], match[2]
    if quoted := _QUOTED.fullmatch(value):
        return name, quoted[1] or quoted[2] or ""
    if value and (value[0] in _QUOTATION_MARKS or value[-1] in _QUOTATION_MARKS):
        raise ValueError(f"the value of {name} is not in plain quotation marks. Write {name}='value'.")
    if value.startswith("#") or re.search(r"[ \t]#", value):
        raise ValueError(f"the # in {name} can begin a comment. Write {name}='value', and the comment on its own line.")
    if value.endswith("\\"):
        raise ValueError(f"the value of {name} ends with a backslash. Write {name}='value', on one line.")
    return name, value


# --- URLs of servers --------------------------------------------------------------------------------------------------

_ESCAPES = "In a user name or password, write % as %25, @ as %40, / as %2F, ? as %3F and # as %23."


class ServerURL(NamedTuple):
    """``scheme://user:password@host:port/path?name=value``, its parts unescaped; "" for a part that is not there."""

    scheme: str
    user: str
    password: str
    hosts: list[str]  # more than one where they are comma separated; without the brackets of IPv6
    ports: list[str]  # as many as hosts
    path: str
    parameters: dict[str, str]


def parse_server_url(name: str, url: str, schemes: Sequence[str], form: str) -> ServerURL:
    """The parts of the value of the setting ``name``.

    Raises ImproperlyConfigured with ``form`` (how to write the setting) for another scheme, and for a URL that can be
    split in two ways: ``urllib.parse`` takes an unescaped ``/`` or ``?`` in a password for the end of the host.
    """
    match = re.fullmatch(r"([A-Za-z]+)://([^/?#]*)([^?#]*)(.*)", url, re.DOTALL)
    if match is None or match[1].lower() not in schemes:
        raise ImproperlyConfigured(f"{name} is not a valid URL. {form}")
    scheme, authority, path, query = match.groups()
    userinfo, _, address = authority.rpartition("@")
    # The @ before the host is behind each unescaped character of a password.
    if "@" in userinfo + path + query or "#" in query:
        raise ImproperlyConfigured(f"{name} is ambiguous. {_ESCAPES}")
    user, _, password = userinfo.partition(":")
    places = [re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::([0-9]*))?", each) for each in address.split(",")]
    if not all(place and (not place[3] or 0 < int(place[3][:6]) < 65536) for place in places):
        raise ImproperlyConfigured(f"{name} has no valid host and port. {form} {_ESCAPES}")
    parameters: dict[str, str] = {}
    for each in filter(None, query[1:].split("&")):
        parameter, separator, value = each.partition("=")
        if not separator or parameter in parameters or "?" in each:
            raise ImproperlyConfigured(f"After the ?, {name} must have name=value, each name once. {_ESCAPES}")
        parameters[parameter] = _unescape(name, value)
    return ServerURL(
        scheme.lower(),
        _unescape(name, user),
        _unescape(name, password),
        [_unescape(name, place[1] or place[2] or "") for place in places if place],
        [place[3] or "" for place in places if place],
        _unescape(name, path[1:]),
        parameters,
    )


def _unescape(name: str, text: str) -> str:
    try:
        plain = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        plain = "\0"
    if re.search(r"%(?![0-9A-Fa-f]{2})", text) or not plain.isprintable():
        raise ImproperlyConfigured(f"{name} has a % that is no escape of a character. {_ESCAPES}")
    return plain


def parse_database_url(name: str, url: str) -> dict[str, Any]:
    """Django's ENGINE, NAME, USER, PASSWORD, HOST, PORT and OPTIONS (libpq's parameters) of the database at ``url``."""
    form = f"Write {name}=postgres://user:password@host/name"
    if name == "DATABASE_URL":
        form += " or sqlite:////path/to/file"
    form += "."
    if url.startswith("sqlite:"):
        path = url.removeprefix("sqlite://")
        if path in ("", ":memory:"):
            path = "/:memory:"
        if not path.startswith("/") or "?" in path or "#" in path:
            raise ImproperlyConfigured(f"{name} names no file. {form} In the path, write ? as %3F and # as %23.")
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": _unescape(name, path[1:]), "OPTIONS": {}}
    parts = parse_server_url(name, url, ("postgres", "postgresql"), form)
    if "/" in parts.path:
        raise ImproperlyConfigured(
            f"{name} has a / in the name of the database. {form} For a socket: postgres://user@/name?host=/its/folder."
        )
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path,
        "USER": parts.user,
        "PASSWORD": parts.password,
        "HOST": ",".join(parts.hosts),
        "PORT": ",".join(parts.ports) if any(parts.ports) else "",
        "OPTIONS": parts.parameters,
    }


def parse_cache_url(name: str, url: str) -> str:
    """``url`` as Django and redis-py take it.

    redis-py ignores a part that it cannot read, so all of it is read here. Django splits the text at ``,`` and ``;``.
    """
    form = f"Write {name}=redis://user:password@host:6379/0 or valkey://host:6379/0, or leave it out."
    parts = parse_server_url(name, url, ("redis", "rediss", "valkey", "valkeys"), form)
    if len(parts.hosts) > 1 or not re.fullmatch(r"[0-9]{0,5}", parts.path):
        raise ImproperlyConfigured(f"{name} does not name one server and the number of its database. {form}")
    scheme = parts.scheme.replace("valkey", "redis")
    return scheme + url[len(parts.scheme) :].replace(",", "%2C").replace(";", "%3B")
