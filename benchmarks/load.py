"""Load: as many requests as a server answers, over a few connections that stay open; wrk's, or else Python's own."""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import subprocess
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

CONNECTIONS = 8
LONGEST_304 = 600  # bytes, headers and all
NO_WRK = (
    "wrk is not installed, so the load comes from Python, which takes more of the machine than the servers can spare: "
    "expect lower figures and smaller gaps. On Debian and Ubuntu: apt-get install wrk. On macOS: brew install wrk."
)


class Request(NamedTuple):
    path: str
    etag: str = ""  # sent as If-None-Match


class Result(NamedTuple):
    rps: float
    p50_ms: float
    p99_ms: float


class Stale(Exception):
    """Polls that should hold were answered in full: a signing window has ended."""


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


def drive(port: int, requests: list[Request], token: str, seconds: float, folder: Path) -> Result:
    """Raises SystemExit when a request fails."""
    if has_wrk():
        return _wrk(port, requests, token, seconds, folder)
    return asyncio.run(_python(port, requests, token, seconds))


def _wrk(port: int, requests: list[Request], token: str, seconds: float, folder: Path) -> Result:
    file = folder / "requests"
    file.write_text("".join(f"{path} {etag}\n" for path, etag in requests))
    script = str(Path(__file__).with_name("wrk.lua"))
    command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{round(seconds)}s"]
    command += ["--script", script, f"http://127.0.0.1:{port}", "--", str(file), token]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(told.rstrip().rpartition("\n")[2])
    if found["failed"] or not found["requests"]:
        raise SystemExit(f"port {port}, {requests[0].path}: {found['failed']} requests failed\n{told}")
    if requests[0].etag and found["bytes"] / found["requests"] > LONGEST_304:
        raise Stale
    return Result(found["requests"] / found["microseconds"] * 1e6, found["p50"] / 1000, found["p99"] / 1000)


async def _python(port: int, requests: list[Request], token: str, seconds: float) -> Result:
    texts = []
    for path, etag in requests:
        condition = f"If-None-Match: {etag}\r\n" if etag else ""
        texts.append(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Authorization: Bearer {token}\r\n{condition}\r\n".encode()
        )
    took: list[float] = []
    began = perf_counter()

    async def client(at: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while perf_counter() - began < seconds:
            sent = perf_counter()
            writer.write(texts[at % len(texts)])
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status = head.split(b" ", 2)[1]
            if status not in (b"200", b"304"):
                raise SystemExit(f"port {port}, {requests[at % len(texts)].path}: status {status.decode()}")
            if status == b"200":
                length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
            took.append(perf_counter() - sent)
            at += 1
        writer.close()

    await asyncio.gather(*(client(number) for number in range(CONNECTIONS)))
    percentiles = statistics.quantiles(took, n=100)
    return Result(len(took) / (perf_counter() - began), percentiles[49] * 1000, percentiles[98] * 1000)
