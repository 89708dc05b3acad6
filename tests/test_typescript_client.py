"""``clients/typescript``: its own tests against a real gateway, its package, its types and the examples."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from typing import Any, NamedTuple

import pytest

from tests.browser import needs_chromium
from tests.gateway import Gateway, database_of_this_test, serving
from tests.node import CLIENT, LONGEST_SECONDS, MODULES, ROOT, Backend, install_and_build, needs_node, run, site
from tests.signed_webhooks import signed_webhook

pytestmark = [needs_node, pytest.mark.django_db(transaction=True), pytest.mark.full_on_postgresql]

EXAMPLES = ROOT / "examples"
PAGE = b'<!doctype html><title>A shop</title><div id="root"></div><script src="/page.js"></script>'


class Served(NamedTuple):
    gateway: Gateway
    backend: str  # address
    token: str

    @property
    def environment(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.gateway.port}"
        return {"GATEWAY_URL": url, "BACKEND_URL": self.backend, "JOBS_GATEWAY_TOKEN": self.token}

    def call(self, name: str, **details: Any) -> Any:
        return call(self.backend, name, **details)


def call(backend: str, name: str, **details: Any) -> Any:
    """Calls the backend at an address."""
    request = urllib.request.Request(backend, json.dumps({"call": name, **details}).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


@pytest.fixture(scope="module")
def client() -> None:
    """Replaces the gateway's test client in this file."""
    install_and_build()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {"/": PAGE, "/favicon.ico": b""}


@pytest.fixture(scope="module")
def origin(files):
    """The origin of a page that may call the gateway."""
    with site(files) as url:
        yield url


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def gateway(django_db_setup, origin, pictures):
    environment = {
        "ARTIFACTS_DIR": str(pictures),
        "CORS_ALLOWED_ORIGINS": origin,
        "PRESIGN_TTL_SECONDS": "3",
        "STREAMS_PER_TENANT": "10",
    }
    with serving(database_of_this_test(), **environment) as gateway:
        yield gateway


@pytest.fixture
def served(client, gateway, pictures, transactional_db):
    with Backend(gateway, pictures).listening() as address:
        yield Served(gateway, address, call(address, "new_tenant"))


OWN_TESTS = {path.name: path for path in sorted((CLIENT / "test").glob("*.test.mjs"))}


@pytest.mark.parametrize("name", [name for name in OWN_TESTS if name != "webhooks.test.mjs"])
def test_its_own_tests_pass(name, served):
    run("node", "--test", OWN_TESTS[name], **served.environment)


@pytest.fixture(scope="module")
def oldest_node(tmp_path_factory):
    """The oldest Node that the client's package names, from npm."""
    [oldest] = re.findall(r">=(\d+)", json.loads((CLIENT / "package.json").read_text())["engines"]["node"])
    folder = tmp_path_factory.mktemp("node")
    run("npm", "install", "--no-audit", "--no-fund", f"node@{oldest}", cwd=folder)
    node = folder / "node_modules/node/bin/node"
    assert run(node, "--version").startswith(f"v{oldest}.")
    return node


@pytest.mark.full
@pytest.mark.sqlite
@pytest.mark.parametrize("name", OWN_TESTS)
def test_its_own_tests_pass_on_the_oldest_node(name, served, oldest_node):
    run(oldest_node, "--test", OWN_TESTS[name], **served.environment, SIGNED=json.dumps(signed_webhook()))


@pytest.mark.sqlite
def test_it_verifies_the_gateways_webhooks(client):
    run("node", "--test", OWN_TESTS["webhooks.test.mjs"], SIGNED=json.dumps(signed_webhook()))


@pytest.mark.sqlite
def test_its_types_are_those_of_the_openapi_document(client, tmp_path):
    generated = tmp_path / "openapi.ts"
    run("node", MODULES / "openapi-typescript/bin/cli.js", ROOT / "tests/golden/openapi.json", "--output", generated)
    assert generated.read_text() == (CLIENT / "src/openapi.ts").read_text(), "make client-models writes them anew"


@pytest.mark.sqlite
def test_its_lock_file_names_no_registry_and_its_dependencies_are_explained():
    lock = json.loads((CLIENT / "package-lock.json").read_text())
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []
    assert all("integrity" in package for name, package in lock["packages"].items() if name)
    package = json.loads((CLIENT / "package.json").read_text())
    assert list(package["dependencies"]) == ["eventsource-parser"]
    explained = (ROOT / "docs/dependencies.md").read_text()
    asked = package["dependencies"] | package["devDependencies"]
    assert {name for name in asked if not re.search(rf"[|,] {re.escape(name)}[ ,]", explained)} == set()


@pytest.fixture(scope="module")
def project(client, tmp_path_factory):
    """An empty project in which the packed client is installed, and the examples beside it."""
    folder = tmp_path_factory.mktemp("project")
    packed = run("npm", "pack", "--pack-destination", folder, "--silent").split()[-1]
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    run("npm", "install", "--prefer-offline", "--no-audit", "--no-fund", folder / packed, cwd=folder)
    for example in EXAMPLES.iterdir():
        shutil.copy(example, folder)
    return folder


def tsc(project, *files, **options):
    """Type-checks files of the project strictly; libraries too."""
    compiler_options = {"strict": True, "noEmit": True, "module": "nodenext", "target": "es2022", "types": []} | options
    config = {"compilerOptions": compiler_options, "files": list(files)}
    (project / "tsconfig.json").write_text(json.dumps(config))
    run("node", MODULES / "typescript/bin/tsc", "--project", project)


@pytest.mark.sqlite
def test_the_packed_client_type_checks_in_an_empty_project(project):
    shutil.copy(CLIENT / "test/consumer.ts", project)
    tsc(project, "consumer.ts")
    installed = json.loads((project / "node_modules/.package-lock.json").read_text())["packages"]
    assert set(installed) == {"node_modules/@jobs-gateway/client", "node_modules/eventsource-parser"}


def link_react(project):
    """React as an application has it; it is no dependency of the client."""
    for name in ("react", "react-dom", "scheduler", "csstype", "@types"):
        target = project / "node_modules" / name
        if not target.exists():
            target.symlink_to(MODULES / name)


def bundle(project, entry, *options):
    """A browser's script of ``entry`` with all that it imports."""
    output = project / "page.js"
    run("node", MODULES / "esbuild/bin/esbuild", entry, "--bundle", f"--outfile={output}", *options, cwd=project)
    return output.read_bytes()


@pytest.mark.sqlite
@needs_chromium
def test_a_page_follows_a_job(project, served, files, origin, browser_page):
    (project / "client.js").write_text('export * from "@jobs-gateway/client";')
    files["/page.js"] = bundle(project, "client.js", "--global-name=client")
    job = served.call("open_job", job_type="MODEL_GENERATOR")
    served.call("append", job=job, event_type="stage", message="one")
    browser_page.goto(origin)
    browser_page.evaluate(
        """([baseUrl, token, job]) => {
            const gateway = new client.JobsGateway({ baseUrl, token });
            window.messages = [];
            window.followed = (async () => {
                for await (const event of gateway.jobs.events(job)) window.messages.push(event.message);
                const { result } = await gateway.jobs.wait(job);
                const error = await result[0].download("front.png").catch(error => error.code);
                return { messages: window.messages, picture: (await result[0].blob()).size, error };
            })();
        }""",
        [served.environment["GATEWAY_URL"], served.token, job],
    )
    browser_page.wait_for_function("window.messages.length === 1", timeout=60_000)
    served.gateway.reload()
    served.call("append", job=job, event_type="stage", message="two")
    served.call("append", job=job, event_type="succeeded", message="three", picture="front.png")
    followed = browser_page.evaluate("window.followed")
    assert followed["messages"] == ["one", "two", "three"]
    assert followed["picture"] > 100
    assert followed["error"] == "NO_FILE_SYSTEM"


def test_the_examples_are_short():
    for name in ("follow-job.mjs", "FollowJob.tsx"):
        assert len((EXAMPLES / name).read_text().splitlines()) < 40


def test_the_node_example_follows_a_job_and_downloads_its_pictures(project, served, tmp_path):
    job = served.call("open_job", job_type="MODEL_GENERATOR")
    served.call("append", job=job, event_type="queued", message="Queued")
    served.call("append", job=job, event_type="succeeded", message="Done", picture="front.png")
    environment = served.environment | {"JOBS_GATEWAY_URL": served.environment["GATEWAY_URL"]}
    printed = run("node", "follow-job.mjs", job, tmp_path, cwd=project, **environment)
    file = tmp_path / "front.png"
    assert printed.splitlines() == ["1 queued Queued", "2 succeeded Done", f"SUCCESS {file}"]
    assert file.stat().st_size > 100


def test_the_start_of_the_readme_follows_a_job_that_goes_on(project, served):
    [code] = re.findall(r"```js\n(.*?)```", (CLIENT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    (project / "start.mjs").write_text(code.replace("http://127.0.0.1:8000", served.environment["GATEWAY_URL"]))
    job = served.call("open_job", job_type="MODEL_GENERATOR")
    served.call("append", job=job, event_type="stage", message="Rendering")
    environment = os.environ | served.environment
    program = subprocess.Popen(["node", "start.mjs"], cwd=project, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout.readline() == "1 Rendering\n"
        served.call("append", job=job, event_type="succeeded", message="Done", picture="front.png")
        assert program.communicate(timeout=LONGEST_SECONDS)[0] == "2 Done\nSUCCESS 1 pictures\n"
    finally:
        program.kill()
        program.communicate()
    assert (project / f"{job}-0.png").stat().st_size > 100


@pytest.mark.sqlite
@needs_chromium
def test_the_react_example_shows_a_job_as_it_goes_on(project, served, files, origin, browser_page):
    link_react(project)
    job = served.call("open_job", job_type="MODEL_GENERATOR")
    properties = {"baseUrl": served.environment["GATEWAY_URL"], "token": served.token, "id": job}
    (project / "page.tsx").write_text(
        'import { createRoot } from "react-dom/client";\n'
        'import { FollowJob } from "./FollowJob.js";\n'
        f'createRoot(document.getElementById("root")!).render(<FollowJob {{...{json.dumps(properties)}}} />);\n'
    )
    tsc(project, "FollowJob.tsx", jsx="react-jsx", skipLibCheck=True)
    files["/page.js"] = bundle(project, "page.tsx", "--jsx=automatic", '--define:process.env.NODE_ENV="production"')
    browser_page.goto(origin)
    served.call("append", job=job, event_type="stage", message="Rendering")
    browser_page.get_by_text("Rendering").wait_for(timeout=60_000)
    served.call("append", job=job, event_type="succeeded", message="All is done", picture="front.png")
    browser_page.get_by_text("SUCCESS").wait_for(timeout=60_000)
    browser_page.wait_for_function("document.querySelector('img')?.naturalWidth > 0", timeout=60_000)
    assert browser_page.complaints == []
