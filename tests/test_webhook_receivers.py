"""What receivers run: the reference implementation for JavaScript, and the examples of docs/webhooks.md."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.webhooks import signing
from tests.servers import free_ports, wait_until

pytestmark = pytest.mark.sqlite  # about no database: once is enough

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "webhooks.md").read_text()
NODE, NPM = shutil.which("node"), shutil.which("npm")
needs_node = pytest.mark.skipif(not (NODE and NPM), reason="Node is not installed: apt-get install nodejs npm")
PHP = shutil.which("php")
needs_php = pytest.mark.skipif(not PHP, reason="PHP is not installed: apt-get install php-cli")
BODY = '{"type":"job.succeeded","data":{"text":"é – 😀"}}'.encode()
ID = "01JADE5XAMPK9M0Q7RS3T4V5W6-4"


@pytest.fixture
def secret():
    return signing.new_secret()


def headers_of(*secrets, body=BODY, at=None):
    now = int(time.time()) if at is None else at
    return signing.signature_headers([signing.signing_key(each) for each in secrets], ID, now, body)


@pytest.fixture(scope="session")
def javascript(tmp_path_factory):
    """A folder with the package, installed from its lock file."""
    folder = tmp_path_factory.mktemp("javascript") / "standardwebhooks"
    shutil.copytree(ROOT / "tests" / "standardwebhooks", folder)
    command = [NPM, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def verify_with_javascript(folder, **given):
    return subprocess.run(
        [NODE, "verify.mjs"], cwd=folder, input=json.dumps(given), capture_output=True, text=True, check=False
    )


@needs_node
def test_the_reference_implementation_for_javascript_verifies_ours(javascript, secret):
    other = signing.new_secret()
    headers = headers_of(other, secret)
    done = verify_with_javascript(javascript, secret=secret, headers=headers, body=BODY.decode())
    assert json.loads(done.stdout) == json.loads(BODY), done.stderr
    for wrong in ({"body": BODY.decode() + " "}, {"secret": signing.new_secret()}):
        given = {"secret": secret, "headers": headers, "body": BODY.decode()} | wrong
        assert verify_with_javascript(javascript, **given).returncode != 0


def example(language):
    [code] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return code


EXAMPLES = [
    pytest.param("python", [sys.executable, "example"], id="python"),
    pytest.param("js", [NODE, "--input-type=module", "--eval", "$(example)"], id="js", marks=needs_node),
    pytest.param("php", [PHP, "-S", "127.0.0.1:$(port)", "example"], id="php", marks=needs_php),
]


@pytest.mark.parametrize(("language", "command"), EXAMPLES)
def test_the_examples_accept_what_is_genuine_and_drop_doubles(language, command, secret, tmp_path):
    (tmp_path / "example").write_text(example(language))
    (port,) = free_ports(1)
    given = {"$(example)": example(language), "127.0.0.1:$(port)": f"127.0.0.1:{port}"}
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [given.get(word, word) for word in command],
            cwd=tmp_path,
            env=os.environ | {"WEBHOOK_SECRET": secret, "PORT": str(port), "SEEN_FOLDER": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: post(port, {}) is not None, process, log)
        genuine = headers_of(secret)
        assert post(port, genuine) == 204
        assert post(port, genuine) == 204
        assert post(port, headers_of(signing.new_secret(), secret)) == 204
        assert post(port, genuine, BODY + b" ") == 401
        assert post(port, headers_of(signing.new_secret())) == 401
        assert post(port, headers_of(secret, at=int(time.time()) - 400)) == 401
        assert post(port, genuine | {"webhook-id": "another"}) == 401
    finally:
        process.kill()
        process.wait()
    assert log.read_text().count(f"job.succeeded {ID}") == 1


def post(port, headers, body=BODY):
    """The status; None where nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    needed = {"webhook-id": "", "webhook-timestamp": "0", "webhook-signature": "", "Content-Length": str(len(body))}
    try:
        connection.request("POST", "/", body, needed | headers)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()
