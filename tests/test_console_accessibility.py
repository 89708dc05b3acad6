"""No page of the console breaks a rule of axe-core or is too wide: both colour schemes, a desktop and a phone.

``tests/axe`` names the version of axe-core. The test installs it with npm, once.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobs.models import JobStatus
from tenants import tokens
from tenants.models import Tenant
from tests.browser import console_pages, log_in, needs_chromium

AXE = Path(__file__).resolve().parent / "axe"
PHONE = 390
WIDTHS = {1280: 800, PHONE: 844}
# All but the branches of JSON trees, which are alike; after the page has followed its new width, which folds filters.
OPEN_DETAILS = """async () => {
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    for (const each of document.querySelectorAll("details:not(.json details)")) each.open = true;
}"""

pytestmark = [
    needs_chromium,
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed: it installs axe-core"),
    pytest.mark.django_db(transaction=True),
    # The browser does not depend on the database, so one database is enough.
    pytest.mark.sqlite,
]


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core."""
    wanted = json.loads((AXE / "package-lock.json").read_text())["packages"]["node_modules/axe-core"]["version"]
    installed = AXE / "node_modules" / "axe-core"
    if not installed.exists() or json.loads((installed / "package.json").read_text())["version"] != wanted:
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=AXE, check=True, capture_output=True, timeout=300)
    return (installed / "axe.min.js").read_text()


def violations(page: Any, rules: list[str] | None = None) -> list[str]:
    """What axe-core finds on the page: rule, element and reason."""
    found = page.evaluate(
        """async rules => {
            const options = {resultTypes: ["violations"]};
            if (rules) options.runOnly = {type: "rule", values: rules};
            return (await axe.run(document, options)).violations;
        }""",
        rules,
    )
    return [f"{each['id']}: {node['html'][:160]} {node['failureSummary']}" for each in found for node in each["nodes"]]


def test_no_page_breaks_a_rule_in_any_colour_scheme_at_any_width_or_is_wider_than_a_phone(
    request, context, sam, admin_user, demo, axe
):
    tokens.issue(demo, label="storefront")
    for slug in ("otter", "osprey"):
        Tenant.objects.create(slug=slug)
    context.add_init_script(axe)
    page = log_in(context, "admin")
    page.emulate_media(reduced_motion="reduce")
    page.get_by_label("Ticket").fill("SUP-2207")
    page.get_by_role("button", name="Set").click()
    ours = console_pages(demo)
    pages = ours | {
        "a filtered list": f"/admin/jobs/job/?tenant=demo&status={JobStatus.FAILURE}",
        "the stuck list": "/admin/jobs/job/?attention=stuck",
        "a search with several results": "/admin/jobs/job/?q=o",
        "a search without a result": "/admin/jobs/job/?q=nothing-like-it",
        "adding a tenant": "/admin/tenants/tenant/add/",
        "a token": f"/admin/tenants/apitoken/{demo.tokens.get().pk}/change/",
        "users": "/admin/auth/user/",
        "a user": f"/admin/auth/user/{sam.pk}/change/",
        "groups": "/admin/auth/group/",
        "a group": f"/admin/auth/group/{sam.groups.get().pk}/change/",
        "changing the password": "/admin/password_change/",
        "not found": "/admin/nothing/",
        "log in": "/admin/login/",
    }
    found = {}
    for name, address in pages.items():
        if name == "log in":
            context.clear_cookies()
        page.goto(address)
        for width, height in WIDTHS.items():
            page.set_viewport_size({"width": width, "height": height})
            if name in ours and width == PHONE:
                assert page.evaluate("document.documentElement.scrollWidth") <= PHONE, name
            page.emulate_media(color_scheme="light")
            page.evaluate(OPEN_DETAILS)
            if broken := violations(page):
                found[name, width, "light"] = broken
            if width == PHONE and not request.config.getoption("--full"):  # the colours are those of a desktop
                continue
            # The scheme changes nothing but colours.
            page.emulate_media(color_scheme="dark")
            if broken := violations(page, ["color-contrast", "link-in-text-block"]):
                found[name, width, "dark"] = broken
    assert found == {}, json.dumps({" ".join(map(str, key)): value for key, value in found.items()}, indent=1)
