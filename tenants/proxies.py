"""Whom a request came from: what proxies say of it counts only where ``TRUSTED_PROXIES`` vouches for them."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest

Address = IPv4Address | IPv6Address

# More proxies than any gateway stands behind; what is beyond them is not looked at.
MOST_HOPS = 20


def came_by_proxy(request: HttpRequest) -> bool:
    """Whether the peer of the connection is a proxy of ours, whose headers count; 2 µs."""
    peer = _address(request.META.get("REMOTE_ADDR", ""))
    return peer is not None and _is_ours(peer)


def client_address(request: HttpRequest) -> str:
    """Who sent the request: the last hop that is none of ``TRUSTED_PROXIES``; an IPv6 one as its /64, one customer's.

    ``X-Forwarded-For`` is walked from its right end, where our own proxies wrote, and trusted as far as they are ours.
    """
    hops = request.META.get("HTTP_X_FORWARDED_FOR", "").rsplit(",", MOST_HOPS)
    client = None
    for hop in (request.META.get("REMOTE_ADDR", ""), *reversed(hops)):
        address = _address(hop)
        if address is None:
            break
        client = address
        if not _is_ours(address):
            break
    if isinstance(client, IPv6Address):
        return str(ip_network((client.packed, 64), strict=False).network_address)
    return str(client)


def _is_ours(address: Address) -> bool:
    return any(address in network for network in settings.TRUSTED_PROXIES)


_ADDRESS_AND_PORT = re.compile(r"\[([^\]]+)\](?::\d+)?|([\d.]+):\d+")


def _address(hop: str) -> Address | None:
    hop = hop.strip()
    if with_port := _ADDRESS_AND_PORT.fullmatch(hop):  # some proxies write the port too
        hop = with_port[1] or with_port[2]
    try:
        address = ip_address(hop)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
