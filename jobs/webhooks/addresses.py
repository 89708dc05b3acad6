"""Which addresses a webhook may be sent to. They are checked when a connection is made.

A check of the URL would not be enough: a name can have another address at the next look-up, and an address has several
spellings. ``checked_socket`` gets each address as it is about to be connected to.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# IANA's special-purpose registries, spelt out: what ``ipaddress`` calls global differs among versions of Python.
_NOT_PUBLIC_4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers (CGNAT); also Alibaba's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's platform: a public address that is inside every virtual machine's network
        "169.254.0.0/16",  # link-local; the metadata services of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # IETF protocol assignments; Oracle's metadata service
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved; broadcast
    )
]
_PUBLIC_6 = IPv6Network("2000::/3")  # everything else is special or not assigned
_NOT_PUBLIC_6 = [
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: holds an IPv4 address
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # the former 6bone
        "3fff::/20",  # documentation
    )
]
_NAT64 = IPv6Network("64:ff9b::/96")  # an IPv4 address in the last 32 bits, as DNS64 returns it


class ForbiddenAddress(OSError):
    """No webhook may be sent to the address. Nothing was sent."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EACCES, reason)  # aiohttp's message has the text of an error with a number


def is_public(address: Address) -> bool:
    """Whether ``address`` is a unicast address of the public internet."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)
    return not any(address in network for network in _NOT_PUBLIC_4)


def check_address(text: str, allowed: Iterable[Network], *, is_encrypted: bool) -> None:
    """Raises ForbiddenAddress unless a webhook may be sent to the numeric address ``text``.

    Addresses in the networks ``allowed`` may be used with TLS and without, public ones with TLS.
    """
    try:
        address = ip_address(text)
    except ValueError:
        raise ForbiddenAddress("not a numeric address") from None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            address = address.ipv4_mapped
        elif address.scope_id:
            raise ForbiddenAddress("an address of one link")
    if any(address in network for network in allowed):
        return
    if not is_public(address):
        raise ForbiddenAddress("not a public address")
    if not is_encrypted:
        raise ForbiddenAddress("a public address is called by https only")


def checked_socket(allowed: Iterable[Network], *, is_encrypted: bool) -> Callable[[Any], socket.socket]:
    """A ``socket_factory`` for aiohttp's TCPConnector, which calls it with each address that it will connect to."""
    networks = list(allowed)

    def make_socket(address_info: Any) -> socket.socket:
        family, kind, protocol, _, address = address_info
        check_address(address[0], networks, is_encrypted=is_encrypted)
        return socket.socket(family, kind, protocol)

    return make_socket
