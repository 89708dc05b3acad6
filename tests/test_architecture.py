"""A room knows only the rooms below it, and the API never reaches past the tenant scope."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from jobs.api.following.views import FollowingViewSet
from jobs.api.views import TenantViewSet

pytestmark = pytest.mark.sqlite  # no database is asked: once is enough

ROOT = Path(__file__).resolve().parent.parent

# From the top down. Rooms of one floor do not know each other; a module belongs to the room with the longest name.
FLOORS = [
    {"jobs.management", "tenants.management", "manage", "benchmarks"},
    {"jobs_gateway", "jobs.demo", "jobs.apps"},
    {"jobs.admin"},
    {"jobs.api.v1", "jobs.api.fleet"},
    {"jobs.api"},
    {"jobs.database", "jobs.ingest"},
    {"jobs.artifacts"},
    {"jobs.models", "jobs.fold", "jobs.migrations"},
    {"tenants", "jobs.ulid", "jobs"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def source_files() -> Iterator[Path]:
    for package in ("jobs", "jobs_gateway", "tenants"):
        yield from sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): ast.parse(path.read_text(), filename=str(path)) for path in source_files()}


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules of this project that ``tree`` imports anywhere, inside functions and for types alone included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # ``from jobs import models`` names a module, ``from jobs.models import Job`` what is in one.
            names = [
                full if (full := f"{node.module}.{alias.name}") in MODULES else node.module for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in ("jobs", "jobs_gateway", "tenants"))


def without_types(tree: ast.Module) -> ast.Module:
    """``tree`` as it runs: what it imports for type checkers alone makes no circle."""
    body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    return ast.Module(body, tree.type_ignores)


def room_of(module: str) -> str:
    return max((room for room in FLOOR_OF if f"{module}.".startswith(f"{room}.")), key=len)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_knows_only_rooms_below_its_own(module):
    room = room_of(module)
    wrong = [
        known
        for known in imports(MODULES[module])
        if room_of(known) != room and FLOOR_OF[room_of(known)] <= FLOOR_OF[room]
    ]
    assert wrong == []


def test_every_room_of_the_jobs_package_has_its_floor():
    assert [module for module in MODULES if module.startswith("jobs.") and room_of(module) == "jobs"] == []


def test_nothing_is_imported_in_a_circle():
    graph = {module: set(imports(without_types(tree))) for module, tree in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" → ".join(circle.args[1]))


@pytest.mark.parametrize(
    "module", [name for name in MODULES if name.startswith(("jobs.api", "jobs.database", "jobs.artifacts"))]
)
def test_the_way_out_names_all_tenants_only_to_ask_for_none(module):
    named = {
        node for node in ast.walk(MODULES[module]) if isinstance(node, ast.Attribute) and node.attr == "all_tenants"
    }
    asked_for_none = {
        node.func.value
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "none"
    }
    assert [ast.unparse(node) for node in named - asked_for_none] == []


def test_the_scope_is_not_walked_round_by_djangos_own_managers():
    walked = [
        f"{module}: {node.attr}"
        for module, tree in MODULES.items()
        if room_of(module) in ("jobs.api", "jobs.database", "jobs.artifacts")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("_base_manager", "_default_manager")
    ]
    assert walked == []


def test_no_view_of_the_api_has_checks_of_its_own_that_a_read_would_not_ask():
    """``TenantViewSet.dispatch`` takes reads past DRF's lists of them."""
    import_module("jobs_gateway.urls")
    views = [*TenantViewSet.__subclasses__(), *FollowingViewSet.__subclasses__()]
    assert len(views) == 4
    for view in views:
        assert not {"authentication_classes", "permission_classes", "throttle_classes", "dispatch"} & vars(view).keys()
