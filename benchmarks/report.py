"""The report: text with the goals, JSON, and a chart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
RESULTS, CHART = HERE / "results.json", HERE / "results.png"
COLOURS = {"gateway": "#c8502d", "fastapi": "#2a8c82", "drf": "#5a6b8c", "limit": "#b9b2a6"}
LABELS = {
    "list": "list of 50",
    "detail": "detail",
    "events": "events",
    "fleet": "/job",
    "not_modified": "304",
    "many_list": "list, 1,000 tokens",
    "many_detail": "detail, 1,000 tokens",
    "list_200": "list of 200",
    "events_500": "events of 500",
}


def kept() -> dict[str, Any]:
    """The figures of earlier runs."""
    measured: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return measured


def keep(**measured: Any) -> None:
    """Replaces the parts that were measured now, and leaves the others."""
    RESULTS.write_text(json.dumps(kept() | measured, indent=2) + "\n")


def text(results: dict[str, Any]) -> str:
    """Markdown: every figure, then the goals. ``results`` are those of ``results.json``, ``flat`` is optional."""
    parts = [
        table("endpoint", {LABELS[name]: servers for name, servers in results["endpoints"].items()}),
        table("connections, detail", results["connections"]),
        table("workers, detail", results["workers"]),
        start_table(results["start"]),
        goal_table(results),
    ]
    rows = results["load"]
    parts.append(
        f"Loading: {rows['gateway_rows_s']:,} rows/s, raw COPY {rows['copy_rows_s']:,} rows/s. Load generator: at most "
        f"{generator_share(results):.0%} of one core."
    )
    return "\n\n".join(["", *parts])


def table(first_column: str, measured: dict[str, Any]) -> str:
    """One row for each server; ``×`` is how many times the gateway's requests a second are those of the server."""
    columns = ["requests/s", "p50 ms", "p99 ms", "CPU µs", "database CPU µs", "generator CPU µs", "errors"]
    lines = [f"| {first_column} | server | {' | '.join(columns)} | gateway is |", f"|---|---|{'--:|' * 8}"]
    for label, servers in measured.items():
        for name, result in servers.items():
            ratio = "" if name == "gateway" else f"{servers['gateway']['rps'] / result['rps']:.2f}×"
            figures = [f"{result['rps']:,.0f}", f"{result['p50_ms']:.2f}", f"{result['p99_ms']:.2f}"]
            figures += [f"{result[field]:,.0f}" for field in ("cpu_us", "database_cpu_us", "client_cpu_us", "errors")]
            lines.append(f"| {label} | {name} | {' | '.join(figures)} | {ratio} |")
    return "\n".join(lines)


def start_table(start: dict[str, Any]) -> str:
    lines = ["| server | cold start s | resident MB |", "|---|--:|--:|"]
    lines += [f"| {name} | {each['cold_start_s']:.2f} | {each['resident_mb']:.0f} |" for name, each in start.items()]
    return "\n".join(lines)


def generator_share(results: dict[str, Any]) -> float:
    """The most that the load generator took, in cores."""
    measured = [*results["endpoints"].values(), *results["connections"].values(), *results["workers"].values()]
    return max(each["rps"] * each["client_cpu_us"] for servers in measured for each in servers.values()) / 1e6


# --- Goals --------------------------------------------------------------------------------------------------------


class Goal(NamedTuple):
    name: str
    value: float
    bound: float
    at_least: bool = False
    unit: str = "×"

    @property
    def is_met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def goals(results: dict[str, Any]) -> Iterator[Goal]:
    endpoints, connections, workers = results["endpoints"], results["connections"], results["workers"]

    def rate_ratio(endpoint: str, peer: str) -> float:
        return endpoints[endpoint]["gateway"]["rps"] / endpoints[endpoint][peer]["rps"]

    def cpu_ratio(one: dict[str, float], other: dict[str, float]) -> float:
        return one["cpu_us"] / other["cpu_us"]

    for endpoint, bound in (("list", 6), ("detail", 12), ("events", 12), ("fleet", 12)):
        yield Goal(f"requests/s, FastAPI, {LABELS[endpoint]}", rate_ratio(endpoint, "fastapi"), bound, True)
    for endpoint, bound in (("list", 5), ("detail", 8), ("events", 8)):
        yield Goal(f"requests/s, DRF, {LABELS[endpoint]}", rate_ratio(endpoint, "drf"), bound, True)
    for endpoint, at_most in (("list", 1.4), ("detail", 1.4), ("events", 1.4), ("fleet", 1.4), ("not_modified", 1.3)):
        servers = endpoints[endpoint]
        yield Goal(f"CPU, the limit, {LABELS[endpoint]}", cpu_ratio(servers["gateway"], servers["limit"]), at_most)
    for many, one in (("many_list", "list"), ("many_detail", "detail")):
        ratio = cpu_ratio(endpoints[many]["gateway"], endpoints[one]["gateway"])
        yield Goal(f"CPU, 1,000 tokens against one, {LABELS[one]}", ratio, 1.8)
    for count in ("64", "256"):
        figures = connections[count]["gateway"]
        yield Goal(f"p99 against p50, {count} connections", figures["p99_ms"] / figures["p50_ms"], 6)
        yield Goal(f"errors, {count} connections", figures["errors"], 0, unit="")
    one_worker, two_workers = workers["1"]["gateway"], workers["2"]["gateway"]
    cores = results["machine"]["cores"]
    yield Goal(
        "requests/s, 2 workers against 1, without the load generator",
        without_generator(two_workers, 2, cores) / without_generator(one_worker, 1, cores),
        1.7,
        True,
    )
    # "No worse", with a tolerance of 5%, by which two runs may differ.
    yield Goal("CPU, 2 workers against 1", cpu_ratio(two_workers, one_worker), 1.05)
    yield Goal("loading, a raw COPY", results["load"]["gateway_rows_s"] / results["load"]["copy_rows_s"], 0.4, True)
    if flat := results.get("flat"):
        yield Goal("1,000,000 jobs against 10,000, the worst request", max(flat.values()), 1.5)


def without_generator(result: dict[str, float], workers: int, cores: int) -> float:
    """Requests a second, had the load generator run on another machine.

    Where there are at least as many workers as cores, it takes its CPU time from the workers; else it has a core.
    """
    generator = result["rps"] * result["client_cpu_us"] / 1e6  # cores
    return result["rps"] * cores / (cores - generator) if workers >= cores else result["rps"]


def goal_table(results: dict[str, Any]) -> str:
    lines = ["| goal | bound | measured | |", "|---|--:|--:|---|"]
    for goal in goals(results):
        sign = "≥" if goal.at_least else "≤"
        verdict = "met" if goal.is_met else "missed"
        lines.append(f"| {goal.name} | {sign} {goal.bound:g}{goal.unit} | {goal.value:.2f}{goal.unit} | {verdict} |")
    return "\n".join(lines)


def chart(endpoints: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (rates, costs, times) = plt.subplots(3, 1, figsize=(12, 12), layout="constrained")
    for place, (name, colour) in enumerate(COLOURS.items()):
        at = [n + (place - 1.5) * 0.2 for n, endpoint in enumerate(endpoints) if name in endpoints[endpoint]]
        results = [servers[name] for servers in endpoints.values() if name in servers]
        bars = rates.bar(at, [result["rps"] for result in results], 0.2, label=name, color=colour)
        rates.bar_label(bars, fmt="{:,.0f}", fontsize=7, rotation=90, padding=3)
        bars = costs.bar(at, [result["cpu_us"] for result in results], 0.2, color=colour)
        costs.bar_label(bars, fmt="{:,.0f}", fontsize=7, rotation=90, padding=3)
        times.bar(at, [result["p99_ms"] for result in results], 0.2, color=colour, alpha=0.35)
        times.bar(at, [result["p50_ms"] for result in results], 0.2, color=colour)
    for axis in (rates, costs, times):
        axis.set_xticks(range(len(endpoints)), [LABELS[endpoint] for endpoint in endpoints], fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    rates.set_title("Requests a second, one worker process each", loc="left")
    rates.margins(y=0.15)
    rates.legend(frameon=False)
    costs.set_title("CPU microseconds of the server for a request", loc="left")
    costs.set_yscale("log")
    costs.margins(y=0.15)
    times.set_yscale("log")
    times.set_title("Milliseconds an answer: p50, and p99 in pale", loc="left")
    figure.savefig(CHART, dpi=130)
    plt.close(figure)
