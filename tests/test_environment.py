"""Settings from the environment and from the settings file: literal values, and an error where one can be misread."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from jobs_gateway.environment import (
    Environment,
    UnknownName,
    parse_cache_url,
    parse_database_url,
    parse_file,
)
from tests.servers import answers, free_ports, wait_until
from tests.shared_servers import copy_trial
from tests.test_checks import ROOT, manage
from tests.test_serve import serve

pytestmark = pytest.mark.sqlite  # no database is used: once is enough

SECRET = "hunter2-hunter2"
ESCAPES = "In a user name or password, write % as %25, @ as %40, / as %2F, ? as %3F and # as %23."
POSTGRESQL = "Write DATABASE_API_URL=postgres://user:password@host/name."


# --- The settings file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=value", "value"),
        ("\ufeffNAME=value", "value"),  # a byte order mark
        ("NAME=value\r", "value"),  # a line of Windows
        ("NAME = value", "value"),
        ("  NAME\t=  value\t ", "value"),
        ("export NAME=value", "value"),
        ("NAME=", ""),
        ("NAME=''", ""),
        ('NAME="value"', "value"),
        ("NAME='value'", "value"),
        ("NAME=' value '", " value "),
        ("NAME='va\"lue' # a comment", 'va"lue'),
        ('NAME="it\'s" # a comment', "it's"),
        ("NAME='#1 # no comment'", "#1 # no comment"),
        (r"NAME='C:\new\'", "C:\\new\\"),
        (r"NAME=C:\new", r"C:\new"),
        ("NAME=a b", "a b"),
        ("NAME=a=b==", "a=b=="),
        ("NAME=pass#word", "pass#word"),
        ("NAME=it's", "it's"),
        ("NAME=$HOME", "$HOME"),
        ('NAME="${HOME}$(id)`id`"', "${HOME}$(id)`id`"),
        ("NAME=\\$x", "\\$x"),
        ("NAME=größe", "größe"),
    ],
)
def test_a_line_that_can_be_read_in_one_way_is_read(line, value):
    assert parse_file(line.encode(), ".env") == {"NAME": value}


def test_lines_end_where_a_line_break_is_and_nowhere_else():
    assert parse_file(b"\n# NAME: value\n \t\n  # A=1\nA=1\r\n\r\nexport B='2'\n", ".env") == {"A": "1", "B": "2"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"DATABASE_URL: postgres://gateway:{SECRET}@db/gateway", "this is not NAME=value."),
        (f"postgres://gateway:{SECRET}@db/gateway", "this is not NAME=value."),
        (f"set NAME={SECRET}", "this is not NAME=value."),
        (f"NA-ME={SECRET}", "this is not NAME=value."),
        (f"1NAME={SECRET}", "this is not NAME=value."),
        (f"={SECRET}", "this is not NAME=value."),
        ("[settings]", "this is not NAME=value."),
        (f"NAME=“{SECRET}”", "the value of NAME is not in plain quotation marks. Write NAME='value'."),
        (f"NAME='{SECRET}", "the value of NAME is not in plain quotation marks. Write NAME='value'."),
        (f'NAME={SECRET}"', "the value of NAME is not in plain quotation marks. Write NAME='value'."),
        (f"NAME='{SECRET}' more", "the value of NAME is not in plain quotation marks. Write NAME='value'."),
        (f'NAME="{SECRET}\\n"', "the value of NAME is not in plain quotation marks. Write NAME='value'."),
        (
            f"NAME={SECRET}  # made today",
            "the # in NAME can begin a comment. Write NAME='value', and the comment on its own line.",
        ),
        (f"NAME=#{SECRET}", "the # in NAME can begin a comment. Write NAME='value', and the comment on its own line."),
        (f"NAME={SECRET}\\", "the value of NAME ends with a backslash. Write NAME='value', on one line."),
        (f"NAME={SECRET}\0", "there is an invisible character here. Remove it."),
        (f"NAME={SECRET}\u200b", "there is an invisible character here. Remove it."),
        (f"\u00a0NAME={SECRET}", "there is an invisible character here. Remove it."),
        (f"NAME={SECRET}\rB=1", "there is an invisible character here. Remove it."),
        (f"NAME={SECRET}\x85", "there is an invisible character here. Remove it."),
        (f"A={SECRET}", "A is on line 1 too. Keep one of them."),
    ],
)
def test_any_other_line_is_an_error_with_its_number_and_without_its_text(line, said):
    with pytest.raises(ImproperlyConfigured) as raised:
        parse_file(f"A=1\n\n{line}\n".encode(), "/etc/gateway.env")
    assert str(raised.value) == f"/etc/gateway.env, line 3: {said}"
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(("encoding", "line"), [("utf-16", 1), ("latin-1", 2)])
def test_a_file_that_is_not_utf_8_is_an_error(encoding, line):
    with pytest.raises(ImproperlyConfigured, match=rf"^\.env, line {line}: this is no UTF-8 text\."):
        parse_file("A=1\nNAME=größe\n".encode(encoding), ".env")


def test_the_environment_wins_over_the_file_and_takes_the_rest_from_it(tmp_path):
    (tmp_path / ".env").write_text("A=file\nB=file\n")
    variables = {"A": "environment", "ENV_FILE": str(tmp_path / ".env")}
    environment = Environment(variables)
    environment.read_file("ENV_FILE", tmp_path / "none")
    assert (environment.str("A"), environment.str("B"), environment.from_file) == (
        "environment",
        "file",
        {"B": "file"},
    )
    assert variables["B"] == "file"  # boto3 and libpq look there


def test_a_file_is_read_in_one_pass_so_that_it_may_be_a_pipe(tmp_path):
    reading, writing = os.pipe()
    os.write(writing, b"A=1\n")
    os.close(writing)
    environment = Environment({"ENV_FILE": f"/dev/fd/{reading}"})
    environment.read_file("ENV_FILE", tmp_path)
    os.close(reading)
    assert environment.str("A") == "1"


def test_a_command_ends_with_one_sentence_where_a_line_cannot_be_read(tmp_path):
    (tmp_path / ".env").write_text(f"DJANGO_DEBUG=0\nDATABASE_URL: postgres://gateway:{SECRET}@db/gateway\n")
    done = manage("check", ENV_FILE=str(tmp_path / ".env"))
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        f"{tmp_path}/.env, line 2: this is not NAME=value.\n",
    )


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="shows no environment of a process")
def test_the_server_inherits_nothing_from_the_file_so_that_a_reload_takes_up_what_changed(tmp_path):
    (tmp_path / ".env").write_text("PUBLIC_BASE_URL=https://before.example.com\n")
    (port,) = free_ports(1)
    process = serve(copy_trial(tmp_path / "data"), ENV_FILE=str(tmp_path / ".env"), PORT=str(port))
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/livez"), process, tmp_path / ".env")
        inherited = Path(f"/proc/{process.pid}/environ").read_bytes()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert f"PORT={port}".encode() in inherited
    assert b"PUBLIC_BASE_URL" not in inherited


# --- Values -----------------------------------------------------------------------------------------------------------


def settings_with(*names, **environment):
    """What the settings ``names`` are, in a process whose environment holds nothing else."""
    code = f"import json; from django.conf import settings; print(json.dumps([getattr(settings, n) for n in {names}]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={name: os.environ[name] for name in ("PATH", "HOME", "DATA_DIR", "ENV_FILE", "DJANGO_SETTINGS_MODULE")}
        | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("where", ["environment", "file"])
def test_a_dollar_sign_is_a_character_like_any_other(where, tmp_path):
    given = {
        "DJANGO_SECRET_KEY": "$HOME",
        "DJANGO_SECRET_KEY_FALLBACKS": "$one,$$two,\\$three",
        "AWS_STORAGE_BUCKET_NAME": "$AWS_S3_REGION_NAME",
        "SHOPIFY_API_KEY": "$NOTHING",
        "SHOPIFY_API_SECRET": "$HOME",
        "DATABASE_URL": "postgres://gateway:$HOME@db/gateway",
    }
    if where == "file":
        (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in given.items()))
        given = {"ENV_FILE": str(tmp_path / ".env")}
    key, fallbacks, bucket, app, secrets, databases = settings_with(
        "SECRET_KEY",
        "SECRET_KEY_FALLBACKS",
        "AWS_STORAGE_BUCKET_NAME",
        "SHOPIFY_API_KEY",
        "SHOPIFY_API_SECRETS",
        "DATABASES",
        **given,
    )
    assert (key, fallbacks) == ("$HOME", ["$one", "$$two", "\\$three"])
    assert (bucket, app, secrets) == ("$AWS_S3_REGION_NAME", "$NOTHING", ["$HOME"])
    assert databases["default"]["PASSWORD"] == "$HOME"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("bool", " on ", True),
        ("bool", "TRUE", True),
        ("bool", "No", False),
        ("int", " 8000 ", 8000),
        ("int", "-1", -1),
        ("float", "0.25", 0.25),
        ("float", " 3 ", 3.0),
    ],
)
def test_a_number_and_a_switch_may_stand_between_spaces(kind, text, value):
    assert getattr(Environment({"NAME": text}), kind)("NAME", default=0) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("bool", "2"),
        ("bool", "$HOME"),
        ("int", "8_000"),
        ("int", "1e3"),
        ("int", "٣"),
        ("int", "9" * 5000),
        ("float", "1.000,5"),
        ("float", "nan"),
    ],
)
def test_any_other_number_or_switch_is_an_error(kind, text):
    with pytest.raises(ImproperlyConfigured, match=r"^NAME is "):
        getattr(Environment({"NAME": text}), kind)("NAME", default=0)


def test_items_of_a_list_may_stand_between_spaces():
    environment = Environment({"NAME": " a.example, b.example ,,"})
    assert environment.list("NAME", default=["c"]) == ["a.example", "b.example"]
    assert environment.list("OTHER", default=["c"]) == ["c"]


@pytest.mark.parametrize("value", [f"{SECRET}\n", f"{SECRET}\r", f"{SECRET}\u200b", f"'{SECRET}'", f'"{SECRET}"'])
def test_what_was_wrapped_around_a_value_on_its_way_is_an_error(value):
    with pytest.raises(ImproperlyConfigured, match=r"^NAME ") as raised:
        Environment({"NAME": value}).str("NAME")
    assert SECRET not in str(raised.value)


# --- URLs of databases and caches -------------------------------------------------------------------------------------


def postgresql(user="", password="", host="", port="", name="", **options):
    given = {"NAME": name, "USER": user, "PASSWORD": password, "HOST": host, "PORT": port, "OPTIONS": options}
    return {"ENGINE": "django.db.backends.postgresql"} | given


STANDBY = {"target_session_attrs": "prefer-standby", "load_balance_hosts": "random"}


def sqlite(name):
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": {}}


@pytest.mark.parametrize(
    ("url", "config"),
    [
        ("postgres://gateway:x@db/gateway", postgresql("gateway", "x", "db", "", "gateway")),
        ("PostgreSQL://db:5433/gateway", postgresql(host="db", port="5433", name="gateway")),
        ("postgres:///gateway", postgresql(name="gateway")),
        (
            "postgres://u@/gateway?host=/run/pg",
            postgresql("u", name="gateway", host="") | {"OPTIONS": {"host": "/run/pg"}},
        ),
        ("postgres://u:%25%40%2F%3F%23%3A%5B@db/g", postgresql("u", "%@/?#:[", "db", "", "g")),
        ("postgres://u:a:b[c]+d$e&f=g@db/g+h", postgresql("u", "a:b[c]+d$e&f=g", "db", "", "g+h")),
        ("postgres://u:gr%C3%B6%C3%9Fe@db/g", postgresql("u", "größe", "db", "", "g")),
        ("postgres://u:x@[2001:db8::1]:5433/g", postgresql("u", "x", "2001:db8::1", "5433", "g")),
        ("postgres://u@a:5433,b/g", postgresql("u", "", "a,b", "5433,", "g")),
        ("postgres://u@a,b/g", postgresql("u", "", "a,b", "", "g")),
        (
            "postgres://u:p@a:5432,b:5432,c:5432/g?target_session_attrs=prefer-standby&load_balance_hosts=random",
            postgresql("u", "p", "a,b,c", "5432,5432,5432", "g", **STANDBY),
        ),
        ("postgres://%2Frun%2FPostgreSQL/g", postgresql(host="/run/PostgreSQL", name="g")),
        (
            "postgres://db/g?sslmode=verify-full&options=-c%20a%3Db+c",
            postgresql(host="db", name="g", sslmode="verify-full", options="-c a=b+c"),
        ),
        ("sqlite:////var/lib/c%2B%2B+%3F.sqlite3", sqlite("/var/lib/c+++?.sqlite3")),
        ("sqlite:///var/gateway.sqlite3", sqlite("var/gateway.sqlite3")),
        ("sqlite:///:memory:", sqlite(":memory:")),
        ("sqlite://:memory:", sqlite(":memory:")),
    ],
)
def test_the_parts_of_a_databases_url(url, config):
    assert parse_database_url("DATABASE_URL", url) == config


@pytest.mark.parametrize("password", [f"{SECRET}{sign}{tail}" for sign in "%@/?#" for tail in ("", "1", "xy", "/?")])
@pytest.mark.parametrize("address", ["db/gateway", "db:5433/gateway", "/gateway?host=/run/postgresql"])
def test_an_unescaped_character_in_a_password_is_an_error(password, address):
    with pytest.raises(ImproperlyConfigured) as raised:
        parse_database_url("DATABASE_API_URL", f"postgres://gateway:{password}@{address}")
    assert str(raised.value).startswith("DATABASE_API_URL ")
    assert str(raised.value).endswith(ESCAPES)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("character", [chr(code) for code in range(33, 127)])
def test_every_other_character_of_a_password_is_taken_as_it_is(character):
    if character in "%@/?#":
        character = f"%{ord(character):02X}"
    password = f"a{character}1{character}"
    assert parse_database_url("DATABASE_URL", f"postgres://gateway:{password}@db:5433/gateway") == postgresql(
        "gateway", re.sub("%..", lambda match: chr(int(match[0][1:], 16)), password), "db", "5433", "gateway"
    )


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", f"DATABASE_API_URL is not a valid URL. {POSTGRESQL}"),
        (f"gateway:{SECRET}@db/gateway", f"DATABASE_API_URL is not a valid URL. {POSTGRESQL}"),
        (f"mysql://gateway:{SECRET}@db/gateway", f"DATABASE_API_URL is not a valid URL. {POSTGRESQL}"),
        (f"postgres:gateway:{SECRET}@db", f"DATABASE_API_URL is not a valid URL. {POSTGRESQL}"),
        (f"postgres://gateway:{SECRET}/db", f"DATABASE_API_URL has no valid host and port. {POSTGRESQL} {ESCAPES}"),
        ("postgres://db:0/gateway", f"DATABASE_API_URL has no valid host and port. {POSTGRESQL} {ESCAPES}"),
        ("postgres://db:65536/gateway", f"DATABASE_API_URL has no valid host and port. {POSTGRESQL} {ESCAPES}"),
        ("postgres://[::1/gateway", f"DATABASE_API_URL has no valid host and port. {POSTGRESQL} {ESCAPES}"),
        ("postgres://u:%00@db/gateway", f"DATABASE_API_URL has a % that is no escape of a character. {ESCAPES}"),
        ("postgres://u:%FF@db/gateway", f"DATABASE_API_URL has a % that is no escape of a character. {ESCAPES}"),
        ("postgres://db/gateway#x", f"DATABASE_API_URL is ambiguous. {ESCAPES}"),
        (
            "postgres://db/gateway?sslmode",
            f"After the ?, DATABASE_API_URL must have name=value, each name once. {ESCAPES}",
        ),
        (
            "postgres://db/gateway?sslmode=prefer&sslmode=require",
            f"After the ?, DATABASE_API_URL must have name=value, each name once. {ESCAPES}",
        ),
        (
            "postgres://db/a/b",
            (
                f"DATABASE_API_URL has a / in the name of the database. {POSTGRESQL} "
                "For a socket: postgres://user@/name?host=/its/folder."
            ),
        ),
    ],
)
def test_any_other_url_of_a_database_is_an_error(url, said):
    with pytest.raises(ImproperlyConfigured) as raised:
        parse_database_url("DATABASE_API_URL", url)
    assert str(raised.value) == said


@pytest.mark.parametrize("url", ["sqlite:gateway", "sqlite://db/gateway", "sqlite:///a?b", "sqlite:///a#b"])
def test_a_url_of_sqlite_names_a_file_and_nothing_else(url):
    with pytest.raises(ImproperlyConfigured, match=r"^DATABASE_URL names no file\. .* write \? as %3F and # as %23\.$"):
        parse_database_url("DATABASE_URL", url)


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("redis://cache:6379/1", "redis://cache:6379/1"),
        ("valkey://cache", "redis://cache"),
        ("VALKEYS://:a,b%2F;c@cache/0?ssl_cert_reqs=none", "rediss://:a%2Cb%2F%3Bc@cache/0?ssl_cert_reqs=none"),
    ],
)
def test_the_url_of_a_cache_reaches_redis_whole(url, taken):
    assert parse_cache_url("CACHE_URL", url) == taken


@pytest.mark.parametrize(
    "url",
    [
        f":{SECRET}@cache:6379",
        f"memcached://:{SECRET}@cache",
        f"redis://:{SECRET}/x@cache:6379",
        f"redis://:{SECRET}?x@cache:6379",
        f"redis://:{SECRET}%x@cache:6379",
        f"redis://:{SECRET}@a,b/0",
        f"redis://:{SECRET}@cache/zero",
        f"redis://:{SECRET}@cache:port",
    ],
)
def test_any_other_url_of_a_cache_is_an_error(url):
    with pytest.raises(ImproperlyConfigured, match=r"^CACHE_URL ") as raised:
        parse_cache_url("CACHE_URL", url)
    assert SECRET not in str(raised.value)


# --- Names ------------------------------------------------------------------------------------------------------------


def unknown_names(variables, file=None):
    environment = Environment(variables | (file or {}))
    environment.from_file = file or {}
    source = (ROOT / "jobs_gateway" / "settings.py").read_text()
    for name in re.findall(r'env\.\w+\(\s*"([A-Z0-9_]+)"', source):
        environment.str(name)
    return environment.unknown_names()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DATABSE_URL", "DATABASE_URL"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("database_url", "DATABASE_URL"),
        ("DATABASE_FOO", ""),
        ("DJANGO_DATABASE", ""),
        ("DJANGO_ALLOWED_HOST", "DJANGO_ALLOWED_HOSTS"),
        ("AWS_STORAGE_BUCKET", "AWS_STORAGE_BUCKET_NAME"),
        ("AWS_S3_ENDPOINT", "AWS_S3_ENDPOINT_URL"),
        ("AWS_S3_CUSTOM_DOMAIN", ""),
        ("AWS_ACESS_KEY_ID", "AWS_ACCESS_KEY_ID"),
        ("SHOPIFY_SECRET", "SHOPIFY_API_SECRET"),
        ("SHOPIFY_APP_URL", ""),
        ("WEB_CONCURRENCY", ""),
    ],
)
def test_a_name_that_looks_like_a_setting_and_is_none_is_found(name, meant):
    assert unknown_names({name: "x"}) == [UnknownName(name, meant, in_file=False)]
    assert unknown_names({}, {name: "x"}) == [UnknownName(name, meant, in_file=True)]


def test_in_the_settings_file_every_name_that_nothing_reads_is_found():
    assert unknown_names({}, {"BUCKET": "x"}) == [UnknownName("BUCKET", "", in_file=True)]
    assert unknown_names({"BUCKET": "x"}) == []


# As found in a shell, in containers, on AWS and in Kubernetes beside a service named "database".
FOREIGN = {
    "a shell": "HOME PATH HOSTNAME SHELL TERM LANG LC_ALL TZ TMPDIR XDG_DATA_DIRS XDG_DATA_HOME CI",
    "libraries": "PYTHONUNBUFFERED PYTHONPATH PGPASSWORD PGSSLROOTCERT http_proxy HTTPS_PROXY NO_PROXY SSL_CERT_FILE",
    "Django": "DJANGO_SETTINGS_MODULE DJANGO_SUPERUSER_PASSWORD",
    "systemd": "INVOCATION_ID JOURNAL_STREAM STATE_DIRECTORY NOTIFY_SOCKET",
    "credentials": "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_SECURITY_TOKEN AWS_PROFILE",
    "boto3": "AWS_ROLE_ARN AWS_DEFAULT_REGION AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3 AWS_CA_BUNDLE AWS_CONFIG_FILE "
    "AWS_RETRY_MODE AWS_S3_USE_ARN_REGION AWS_S3_DISABLE_EXPRESS_SESSION_AUTH AWS_STS_REGIONAL_ENDPOINTS",
    "AWS": "AWS_REGION AWS_EXECUTION_ENV AWS_PAGER AWS_WEB_IDENTITY_TOKEN_FILE AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "Kubernetes": "KUBERNETES_SERVICE_HOST DATABASE_SERVICE_HOST DATABASE_SERVICE_PORT DATABASE_SERVICE_PORT_PG "
    "DATABASE_PORT_5432_TCP DATABASE_PORT_5432_TCP_ADDR",
    "the compose file": "POSTGRES_PASSWORD",
}


@pytest.mark.parametrize("names", FOREIGN.values(), ids=FOREIGN.keys())
def test_what_other_programs_read_is_not_taken_for_a_setting(names):
    others = dict.fromkeys(names.split(), "x") | {"DATABASE_PORT": "tcp://10.0.0.1:5432"}
    assert unknown_names(others) == []


def test_every_documented_setting_is_known_whichever_of_them_are_set():
    listed = re.findall(r"^\| `([A-Z0-9_]+)` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    values = {"CACHE_URL": "redis://cache", "TRUSTED_PROXIES": "10.0.0.7", "DATABASE_URL": "sqlite://:memory:"}
    values["WEBHOOK_ALLOWED_NETWORKS"] = "10.0.0.0/8"
    texts = {"AWS_STORAGE_BUCKET_NAME": "", "DATABASE_API_URL": "", "DATABASE_REPLICA_URL": "", "METRICS_PORT": "0"}
    given = {name: "1" for name in listed if name != "DATA_DIR"} | values | texts
    assert settings_with("UNKNOWN_SETTINGS", **given) == [[]]


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        (
            "DATABSE_URL=postgres://db/gateway",
            1,
            (
                "(jobs_gateway.E009) DATABSE_URL is set in the settings file, and no setting has this name.\n"
                "\tHINT: Did you mean DATABASE_URL?"
            ),
        ),
        # As the next test, of which the environment has the name.
        pytest.param(
            "BUCKET=pictures",
            0,
            (
                "(jobs_gateway.W006) BUCKET is set in the settings file, and no setting has this name.\n"
                "\tHINT: docs/settings.md lists the settings."
            ),
            marks=pytest.mark.full,
        ),
    ],
)
def test_check_names_what_is_in_the_settings_file_and_is_no_setting(line, status, said, tmp_path):
    (tmp_path / ".env").write_text(f"{line}\n")
    done = manage("check", ENV_FILE=str(tmp_path / ".env"))
    assert said in done.stderr
    assert done.returncode == status


def test_check_names_what_is_in_the_environment_and_is_no_setting():
    done = manage("check", DATABSE_URL="postgres://db/gateway")
    assert "(jobs_gateway.W006) DATABSE_URL is set, and no setting has this name." in done.stderr
    assert "HINT: Did you mean DATABASE_URL?" in done.stderr
    assert done.returncode == 0
