"""Settings as the environment gives them, where what cannot be meant is an error that says what to write instead."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured

# How a value may be written, and what to say where it is not.
FORMS: dict[Any, tuple[re.Pattern[str], str]] = {
    bool: (re.compile(r"1|true|yes|on|0|false|no|off", re.IGNORECASE), "Write 1 or 0."),
    int: (re.compile(r"-?\d+"), "Write a whole number, without a unit."),
    float: (re.compile(r"-?\d+(\.\d+)?"), "Write a number, without a unit."),
}


class Environment(environ.Env):
    """django-environ, which by itself takes any other word for False, and says of a bad number not whose it is."""

    def get_value(self, var: str, cast: Any = None, default: Any = environ.Env.NOTSET, *args: Any) -> Any:
        """Raises ImproperlyConfigured for a value that is not written as its kind is."""
        given = self.ENVIRON.get(var)
        if cast in FORMS and given is not None:
            form, advice = FORMS[cast]
            if not form.fullmatch(given.strip()):
                raise ImproperlyConfigured(f"{var} is {given!r}. {advice}")
        return super().get_value(var, cast, default, *args)

    def read_env_file(self, var: str, default: Path) -> None:
        """Reads the file that ``var`` names, else ``default`` where there is one.

        django-environ passes over a file that it cannot read, and the gateway would start as a trial of itself.
        """
        named = self.str(var, default="")
        path = Path(named or default)
        if named or path.exists():
            try:
                path.open().close()
            except OSError as error:
                raise ImproperlyConfigured(
                    f"{path} cannot be read: {error.strerror}. {var} names the file of the settings."
                ) from None
            self.read_env(str(path))

    def networks(self, var: str) -> list[IPv4Network | IPv6Network]:
        """Addresses and networks, comma separated; none unless given."""
        try:
            return [ip_network(text.strip()) for text in self.list(var, default=[])]
        except ValueError as error:
            advice = "Write addresses and networks, comma separated, such as 10.0.0.0/8,192.0.2.1."
            raise ImproperlyConfigured(f"{var}: {error}. {advice}") from None
