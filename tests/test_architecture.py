"""A package imports only packages of lower layers, and the API reads only through the tenant scope."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from jobs.api.following.views import FollowingViewSet
from jobs.api.views import TenantViewSet

pytestmark = pytest.mark.sqlite  # no database is used: once is enough

ROOT = Path(__file__).resolve().parent.parent

# The layers of docs/architecture.md, from the top down. Packages of one layer do not import each other. A module is of
# the package with the longest name that its own begins with.
LAYERS = [
    {"jobs.webhooks.management"},
    {"jobs.management", "tenants.management", "manage", "benchmarks"},
    {"jobs_gateway", "jobs.apps"},
    {"jobs.demo"},
    {"jobs.webhooks"},
    {"jobs.admin"},
    {"jobs.api.v1", "jobs.api.fleet"},
    {"jobs.api"},
    {"jobs.database", "jobs.ingest"},
    {"jobs.artifacts"},
    {"jobs.models", "jobs.fold", "jobs.migrations"},
    {"tenants", "jobs.ulid", "jobs.postgresql", "jobs"},
]
LAYER_OF = {package: number for number, packages in enumerate(LAYERS) for package in packages}
READ_PATH = ("jobs.api", "jobs.database", "jobs.artifacts")


def source_files() -> Iterator[Path]:
    for package in ("jobs", "jobs_gateway", "tenants"):
        yield from sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): ast.parse(path.read_text(), filename=str(path)) for path in source_files()}


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules of this project that ``tree`` imports, inside functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # ``from jobs import models`` names a module, ``from jobs.models import Job`` a part of one.
            names = [
                full if (full := f"{node.module}.{alias.name}") in MODULES else node.module for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in ("jobs", "jobs_gateway", "tenants"))


def without_type_checking(tree: ast.Module) -> ast.Module:
    """``tree`` as it runs: without ``if TYPE_CHECKING:``."""
    body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    return ast.Module(body, tree.type_ignores)


IMPORTS_AT_RUN_TIME = {module: set(imports(without_type_checking(tree))) for module, tree in MODULES.items()}


def package_of(module: str) -> str:
    return max((package for package in LAYER_OF if f"{module}.".startswith(f"{package}.")), key=len)


def is_in(module: str, packages: str | tuple[str, ...]) -> bool:
    packages = (packages,) if isinstance(packages, str) else packages
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_packages_of_lower_layers(module):
    package = package_of(module)
    wrong = [
        imported
        for imported in imports(MODULES[module])
        if package_of(imported) != package and LAYER_OF[package_of(imported)] <= LAYER_OF[package]
    ]
    assert wrong == []


def test_every_package_of_jobs_has_a_layer():
    assert [module for module in MODULES if is_in(module, "jobs") and package_of(module) == "jobs"] == ["jobs"]


def test_no_module_imports_itself_through_others():
    try:
        TopologicalSorter(IMPORTS_AT_RUN_TIME).prepare()
    except CycleError as cycle:
        pytest.fail(" → ".join(cycle.args[1]))


@pytest.mark.parametrize("module", [module for module in MODULES if is_in(module, READ_PATH)])
def test_the_api_imports_nothing_of_the_write_path_not_even_through_others(module):
    reached, waiting = set(), [module]
    while waiting:
        for imported in IMPORTS_AT_RUN_TIME.get(waiting.pop(), ()):
            if imported not in reached:
                reached.add(imported)
                waiting.append(imported)
    assert [name for name in sorted(reached) if is_in(name, "jobs.ingest")] == []


def test_tenants_imports_nothing_of_the_other_packages():
    wrong = {
        (module, imported)
        for module, tree in MODULES.items()
        if is_in(module, "tenants")
        for imported in imports(tree)
        if not is_in(imported, "tenants")
    }
    assert wrong == set()


@pytest.mark.parametrize("module", [module for module in MODULES if is_in(module, READ_PATH)])
def test_the_read_path_uses_all_tenants_only_for_an_empty_queryset(module):
    uses = {
        node for node in ast.walk(MODULES[module]) if isinstance(node, ast.Attribute) and node.attr == "all_tenants"
    }
    empty = {
        node.func.value
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "none"
    }
    assert [ast.unparse(node) for node in uses - empty] == []


def test_the_read_path_does_not_use_djangos_managers_without_a_scope():
    uses = [
        f"{module}: {node.attr}"
        for module, tree in MODULES.items()
        if is_in(module, READ_PATH)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("_base_manager", "_default_manager")
    ]
    assert uses == []


def test_no_view_of_the_api_declares_checks_that_dispatch_does_not_run():
    """``TenantViewSet.dispatch`` replaces DRF's: it reads none of these attributes."""
    import_module("jobs_gateway.urls")
    views = [*TenantViewSet.__subclasses__(), *FollowingViewSet.__subclasses__()]
    assert len(views) == 4
    for view in views:
        assert not {"authentication_classes", "permission_classes", "throttle_classes", "dispatch"} & vars(view).keys()
