"""Django's settings for code that runs at each request: ``from tenants.fast_settings import settings``.

``django.conf.settings`` is a proxy whose every read calls Python code, 1 µs. A request reads a dozen.
"""

from __future__ import annotations

from typing import Any, cast

from django import conf
from django.conf import LazySettings
from django.core.signals import setting_changed
from django.dispatch import receiver


class _ReadSettings:
    """Each setting as it was first read, until ``setting_changed`` says that it is another: tests change settings."""

    def __getattr__(self, name: str) -> Any:
        self.__dict__[name] = value = getattr(conf.settings, name)
        return value


settings = cast(LazySettings, _ReadSettings())


@receiver(setting_changed)
def _drop_changed(*, setting: str, **_: object) -> None:
    settings.__dict__.pop(setting, None)
