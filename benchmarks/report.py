"""What was measured, as a table, as JSON and as a chart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS, CHART = HERE / "results.json", HERE / "results.png"
COLOURS = {"gateway": "#c8502d", "fastapi": "#2a8c82", "drf": "#5a6b8c", "limit": "#b9b2a6"}
LABELS = {"list": "list of 50", "detail": "detail", "events": "events", "fleet": "/job", "not_modified": "304"}


def kept() -> dict[str, Any]:
    """What earlier runs measured."""
    empty: dict[str, Any] = {"endpoints": {}, "flat": {}, "load": {}}
    return empty | (json.loads(RESULTS.read_text()) if RESULTS.exists() else {})


def keep(**measured: Any) -> None:
    """Replaces the parts that were measured now, and leaves the others."""
    RESULTS.write_text(json.dumps(kept() | measured, indent=2) + "\n")


def table(endpoints: dict[str, Any]) -> str:
    """Markdown: requests a second, p50 and p99 of each, and how far the gateway is ahead of it."""
    lines = [
        "| endpoint | server | requests/s | p50 ms | p99 ms | gateway is |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for endpoint, servers in endpoints.items():
        for name, result in servers.items():
            # The full answer is what a 304 of the gateway's saves.
            ratio = "" if name == "gateway" else f"{servers['gateway']['rps'] / result['rps']:.2f}×"
            figures = f"{result['rps']:,.0f} | {result['p50_ms']:.2f} | {result['p99_ms']:.2f}"
            lines.append(f"| {LABELS[endpoint]} | {name} | {figures} | {ratio} |")
        if endpoint == "not_modified" and "detail" in endpoints:
            share = servers["gateway"]["rps"] / endpoints["detail"]["limit"]["rps"]
            lines.append(f"| {LABELS[endpoint]} | limit's full detail | | | | {share:.2f}× |")
    return "\n".join(lines)


def chart(endpoints: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (rates, times) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    for place, (name, colour) in enumerate(COLOURS.items()):
        at = [n + (place - 1.5) * 0.2 for n, endpoint in enumerate(endpoints) if name in endpoints[endpoint]]
        results = [servers[name] for servers in endpoints.values() if name in servers]
        bars = rates.bar(at, [result["rps"] for result in results], 0.2, label=name, color=colour)
        rates.bar_label(bars, fmt="{:,.0f}", fontsize=7, rotation=90, padding=3)
        times.bar(at, [result["p99_ms"] for result in results], 0.2, color=colour, alpha=0.35)
        times.bar(at, [result["p50_ms"] for result in results], 0.2, color=colour)
    for axis in (rates, times):
        axis.set_xticks(range(len(endpoints)), [LABELS[endpoint] for endpoint in endpoints])
        axis.spines[["top", "right"]].set_visible(False)
    rates.set_title("Requests a second, one worker process each", loc="left")
    rates.margins(y=0.15)
    rates.legend(frameon=False)
    times.set_yscale("log")
    times.set_title("Milliseconds an answer: p50, and p99 in pale", loc="left")
    figure.savefig(CHART, dpi=130)
    plt.close(figure)
