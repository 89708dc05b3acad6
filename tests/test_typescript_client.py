"""``clients/typescript``: its own tests against a real gateway, its package, its types and the examples."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from typing import Any, NamedTuple

import pytest

from tests.browser import needs_chromium
from tests.gateway import Gateway, database_of_this_test, serving
from tests.node import CLIENT, MODULES, ROOT, Backend, install_and_build, needs_node, run, site

pytestmark = [needs_node, pytest.mark.django_db(transaction=True)]

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

    def call(self, call: str, **details: Any) -> Any:
        request = urllib.request.Request(self.backend, json.dumps({"call": call, **details}).encode())
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)


@pytest.fixture(scope="module")
def client() -> None:
    """Replaces the gateway's test client in this file."""
    install_and_build()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {"/": PAGE}


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
def served(client, gateway, acme, acme_token, pictures):
    with Backend(acme, gateway, pictures).listening() as backend:
        yield Served(gateway, backend, acme_token)


@pytest.mark.parametrize("file", sorted((CLIENT / "test").glob("*.test.mjs")), ids=lambda path: path.name)
def test_its_own_tests_pass(file, served):
    run("node", "--test", file, **served.environment)


@pytest.mark.sqlite
def test_its_types_are_those_of_the_openapi_document(client, tmp_path):
    generated = tmp_path / "openapi.ts"
    run("npx", "openapi-typescript", ROOT / "tests/golden/openapi.json", "--output", generated)
    assert generated.read_text() == (CLIENT / "src/openapi.ts").read_text(), "run make typescript-types"


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
    installed = {path.name for path in (project / "node_modules").iterdir() if not path.name.startswith(".")}
    assert installed == {"@jobs-gateway", "eventsource-parser"}


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
    files["/page.js"] = bundle(project, "node_modules/@jobs-gateway/client", "--global-name=client", "--format=iife")
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
    for example in EXAMPLES.glob("*.[mt]s*"):
        assert len(example.read_text().splitlines()) < 40


def test_the_node_example_follows_a_job_and_downloads_its_pictures(project, served, tmp_path):
    job = served.call("open_job", job_type="MODEL_GENERATOR")
    served.call("append", job=job, event_type="queued", message="Queued")
    served.call("append", job=job, event_type="succeeded", message="Done", picture="front.png")
    environment = served.environment | {"JOBS_GATEWAY_URL": served.environment["GATEWAY_URL"]}
    printed = run("node", "follow-job.mjs", job, tmp_path, cwd=project, **environment)
    file = tmp_path / "front.png"
    assert printed.splitlines() == ["1 queued Queued", "2 succeeded Done", f"SUCCESS {file}"]
    assert file.stat().st_size > 100


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
    files["/page.js"] = bundle(project, "page.tsx", "--jsx=automatic")
    browser_page.goto(origin)
    served.call("append", job=job, event_type="stage", message="Rendering")
    browser_page.get_by_text("Rendering").wait_for(timeout=60_000)
    served.call("append", job=job, event_type="succeeded", message="All is done", picture="front.png")
    browser_page.get_by_text("SUCCESS").wait_for(timeout=60_000)
    browser_page.wait_for_function("document.querySelector('img')?.naturalWidth > 0", timeout=60_000)
    assert browser_page.complaints == []
