"""All settings, each from the environment or ``.env``; docs/settings.md lists them with their units and defaults."""

from __future__ import annotations

import os
import secrets
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from jobs_gateway.environment import Environment, parse_cache_url, parse_database_url

BASE_DIR = Path(__file__).resolve().parent.parent
env = Environment(os.environ)
# The environment wins over the file.
env.read_file("ENV_FILE", BASE_DIR / ".env")

# Where the embedded default keeps its database, pictures and secret key.
DATA_DIR = Path(env.str("DATA_DIR", default=str(BASE_DIR / "var")))


def made(folder: Path) -> Path:
    """``folder``, below ``DATA_DIR`` unless a setting says otherwise; made where there is none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImproperlyConfigured(
            f"{folder} cannot be made: {error.strerror}. DATA_DIR names a folder that the gateway may write to."
        ) from None
    return folder


def embedded_secret_key() -> str:
    """The key that the embedded default makes for itself, once, readable by its owner only."""
    path = DATA_DIR / "secret_key"
    try:
        return path.read_text()
    except FileNotFoundError:
        made(DATA_DIR)
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(48))
        return path.read_text()


def production_settings_given() -> list[str]:
    """The names of the settings in force that nobody uses to try the gateway out on their own machine."""
    given = [
        name
        for name in ("DATABASE_API_URL", "DATABASE_REPLICA_URL", "AWS_STORAGE_BUCKET_NAME", "DJANGO_ALLOWED_HOSTS")
        if env.str(name, default="")
    ]
    if not env.str("DATABASE_URL", default="sqlite").startswith("sqlite"):
        given.append("DATABASE_URL")
    if env.bool("DJANGO_SECURE", default=False):
        given.append("DJANGO_SECURE")
    return given


SECRET_KEY = env.str("DJANGO_SECRET_KEY", default="")
if not SECRET_KEY:
    if needs_a_key := production_settings_given():
        raise ImproperlyConfigured(
            f"DJANGO_SECRET_KEY is not set, and {', '.join(sorted(needs_a_key))} says that this is not a trial. "
            "It signs links and sessions. Make one with: "
            "python -c 'import secrets; print(secrets.token_urlsafe(48))'"
        )
    SECRET_KEY = embedded_secret_key()
# Keys that were in force before: links and sessions they signed stay valid until they expire.
SECRET_KEY_FALLBACKS = env.list("DJANGO_SECRET_KEY_FALLBACKS", default=[])

DEBUG = env.bool("DJANGO_DEBUG", default=False)
ALLOWED_HOSTS = env.list("DJANGO_ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
# Addresses or networks of the proxies in front; only their X-Forwarded-For and X-Forwarded-Proto count.
TRUSTED_PROXIES = env.networks("TRUSTED_PROXIES")
# The public address of the gateway, such as https://jobs.example.com. If it is not set, that of the request.
PUBLIC_BASE_URL = env.str("PUBLIC_BASE_URL", default="").rstrip("/")

# Set to 1 where the gateway stands behind TLS: redirects to https, secure cookies, HSTS.
SECURE = env.bool("DJANGO_SECURE", default=False)
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE
SECURE_HSTS_SECONDS = 31_536_000 if SECURE else 0  # a year
SILENCED_SYSTEM_CHECKS = [
    # Whether the other hosts of the domain keep to https is not for the gateway to promise.
    "security.W005",
    "security.W021",
    "models.W040",  # indexes hold more columns for PostgreSQL to read; SQLite goes without them and answers the same
]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if SECURE and TRUSTED_PROXIES else None

INSTALLED_APPS = [
    "jobs_gateway.apps.ConsoleConfig",  # django.contrib.admin
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "jobs_gateway",
    "tenants",
    "jobs",
    "jobs.webhooks",
]

# Of Django's pages; that of every request is ASGI middleware, in jobs_gateway.application.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "jobs_gateway.pages.StaticFilesMiddleware",
    "jobs_gateway.pages.ErrorPageMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
# Origins whose pages may call the API from a browser, such as https://shop.example.com; none unless given.
CORS_ALLOWED_ORIGINS = env.list("CORS_ALLOWED_ORIGINS", default=[])
CORS_ALLOW_METHODS = ["GET", "HEAD", "OPTIONS"]
CORS_ALLOW_HEADERS = [
    "Authorization",
    "Content-Type",
    "If-None-Match",
    "Last-Event-ID",
    "Prefer",
    "Cache-Control",
    "X-Request-ID",
    "X-Requested-With",
    "X-Shopify-Hmac-Sha256",
    "traceparent",
    "tracestate",
    "baggage",
    "sentry-trace",
]
CORS_EXPOSE_HEADERS = [
    "ETag",
    "Link",
    "X-Request-ID",
    "Retry-After",
    "Job-Status",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
]

# More than fit into a request line that a server takes: unknown parameters change nothing, however many there are.
DATA_UPLOAD_MAX_NUMBER_FIELDS = 10_000

ROOT_URLCONF = "jobs_gateway.urls"
ASGI_APPLICATION = "jobs_gateway.asgi.application"
APPEND_SLASH = True

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "jobs" / "admin" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "libraries": {"console_tags": "jobs.admin.console_tags"},
        },
    }
]


# Off behind a pooler that hands each transaction to another connection, where nothing that is prepared is found again.
DATABASE_PREPARED = env.bool("DATABASE_PREPARED", default=True)
# Connections of a process to each PostgreSQL server, for the API and for pages alike. 0: 4 in a worker of the server,
# and 32 in any other process.
DATABASE_POOL_SIZE = env.int("DATABASE_POOL_SIZE", default=0)


def database(name: str, default: str = "") -> dict[str, Any]:
    """Django's settings for the database that the setting ``name`` names, else for the one at ``default``."""
    config = parse_database_url(name, env.str(name, default))
    options: dict[str, Any] = config["OPTIONS"]
    if config["ENGINE"].endswith("sqlite3"):
        # Readers and one writer side by side; a writer queues for the lock instead of failing half way.
        options.update(
            transaction_mode="IMMEDIATE",
            timeout=20,
            init_command="PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        )
        made(Path(config["NAME"]).parent)
    else:
        config["ENGINE"] = "jobs.postgresql"
        config["CONN_HEALTH_CHECKS"] = True  # no connection of the pool is used that a failover has ended
        options.update(
            server_side_binding=True,  # what prepared statements need
            prepare_threshold=1 if DATABASE_PREPARED else None,  # from the second use on
            pool={
                "min_size": 1,
                "max_size": DATABASE_POOL_SIZE or 32,  # threads of a backend that writes through the ledger
                "timeout": 2,  # seconds to wait for a connection, before the backend asks again
                "reconnect_timeout": 2,  # seconds of ever rarer attempts; after that the next caller tries
            },
        )
        options.setdefault("connect_timeout", 2)  # seconds, for each host
        if name != "DATABASE_REPLICA_URL":
            # A connection to a server that was demoted would answer reads, with old data, and refuse every write.
            options.setdefault("target_session_attrs", "primary")
        config["DISABLE_SERVER_SIDE_CURSORS"] = not DATABASE_PREPARED  # they outlive their transaction too
    return config


DATABASES = {"default": database("DATABASE_URL", f"sqlite:///{quote(str(DATA_DIR / 'gateway.sqlite3'))}")}
# The database alias that answers /v1 and /job: by a role of its own, which row security binds, where one is given.
API_DATABASE = "default"
if env.str("DATABASE_API_URL", default=""):
    API_DATABASE = "api"
    DATABASES["api"] = database("DATABASE_API_URL") | {"TEST": {"MIRROR": "default"}}
# The database alias of a streaming replica, which reads of the API go to first; "" for none.
API_REPLICA = ""
if env.str("DATABASE_REPLICA_URL", default=""):
    API_REPLICA = "replica"
    DATABASES["replica"] = database("DATABASE_REPLICA_URL") | {"TEST": {"MIRROR": "default"}}
# Seconds that the replica may be behind; beyond that the primary answers, as long as it can.
DATABASE_REPLICA_MAX_LAG_SECONDS = env.float("DATABASE_REPLICA_MAX_LAG_SECONDS", default=10)
# Refuse to serve where row security does not bind the API's role.
REQUIRE_ROW_SECURITY = env.bool("REQUIRE_ROW_SECURITY", default=False)
# Milliseconds after which PostgreSQL cancels a read of the API.
STATEMENT_TIMEOUT_MS = env.int("STATEMENT_TIMEOUT_MS", default=1500)
# Seconds that a call of the ledger waits on PostgreSQL for the counter of its tenant, which another writer has locked.
LEDGER_LOCK_SECONDS = env.float("LEDGER_LOCK_SECONDS", default=30)
# Seconds that a command which works in batches waits for a database that is away, before it stops.
DATABASE_WAIT_SECONDS = env.float("DATABASE_WAIT_SECONDS", default=60)
# Seconds that a request of the API waits for PostgreSQL in all: a little longer than it takes to cancel.
DATABASE_DEADLINE_SECONDS = max(STATEMENT_TIMEOUT_MS, 1500) / 1000 + 0.25


def limit_pools_of_a_worker() -> None:
    """A worker of the server needs few connections, and its callers get an error soon if there is none."""
    for config in DATABASES.values():
        if pool := config["OPTIONS"].get("pool"):
            pool |= {"max_size": DATABASE_POOL_SIZE or 4, "timeout": 1}  # seconds
            config["POOL_WAIT_SECONDS"] = 1


DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Where `make run` and `make serve` listen, and in how many processes: SQLite gains nothing from a second one.
WEB_HOST = env.str("WEB_HOST", default="127.0.0.1")
PORT = env.int("PORT", default=8000)
WEB_WORKERS = env.int(
    "WEB_WORKERS", default=1 if DATABASES["default"]["ENGINE"].endswith("sqlite3") else os.cpu_count() or 1
)
# Whether `make run` simulates jobs of the demo tenant.
SIMULATE = env.bool("SIMULATE", default=True)
# Seconds a link to a picture lives; at least two thirds of it are left when it is handed out.
PRESIGN_TTL_SECONDS = env.int("PRESIGN_TTL_SECONDS", default=900)

AWS_STORAGE_BUCKET_NAME = env.str("AWS_STORAGE_BUCKET_NAME", default="")
s3_endpoint_url = env.str("AWS_S3_ENDPOINT_URL", default="")
s3_region = env.str("AWS_S3_REGION_NAME", default="us-east-1")
s3_addressing_style = env.str("AWS_S3_ADDRESSING_STYLE", default="auto")  # path, virtual or auto
artifacts_folder = env.str("ARTIFACTS_DIR", default=str(DATA_DIR / "artifacts"))


def artifact_origins() -> list[str]:
    """Where a browser finds the pictures, in addition to this origin: in the bucket, whichever way it is addressed."""
    if not AWS_STORAGE_BUCKET_NAME:
        public = urlsplit(PUBLIC_BASE_URL)
        return [f"{public.scheme}://{public.netloc}"] if public.netloc else []
    store = urlsplit(s3_endpoint_url or f"https://s3.{s3_region}.amazonaws.com")
    return [f"{store.scheme}://{host}" for host in (store.netloc, f"{AWS_STORAGE_BUCKET_NAME}.{store.netloc}")]


if AWS_STORAGE_BUCKET_NAME:
    ARTIFACT_STORE = {
        "BACKEND": "jobs.artifacts.s3.SignedS3Storage",
        "OPTIONS": {
            "bucket_name": AWS_STORAGE_BUCKET_NAME,
            "endpoint_url": s3_endpoint_url or None,
            "region_name": s3_region,
            "addressing_style": s3_addressing_style,
        },
    }
else:
    ARTIFACT_STORE = {
        "BACKEND": "jobs.artifacts.local.SignedFileSystemStorage",
        "OPTIONS": {"location": artifacts_folder},
    }
STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
# Collected, as `make run` and `make serve` do, static files are compressed, named by their content and cached for ever;
# else they are served from where they lie.
COLLECTED = (STATIC_ROOT / "staticfiles.json").exists()
# What the pages may load: their own files, and pictures from the artifact store. Nothing inline, nothing framed.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "img-src": ["'self'", "data:", *artifact_origins()],
        "worker-src": ["'self'", "blob:"],  # Redoc's search
        "object-src": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    }
}
STORAGES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
        if COLLECTED
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
    "artifacts": ARTIFACT_STORE,
}
STATICFILES_DIRS = [BASE_DIR / "jobs" / "admin" / "static"]
WHITENOISE_USE_FINDERS = not COLLECTED

# Seconds without an event after which the console calls a job in progress stuck.
CONSOLE_STUCK_AFTER_SECONDS = env.int("CONSOLE_STUCK_AFTER_SECONDS", default=3600)
# Seconds between two requests for news of an open page that cannot wait for them.
CONSOLE_REFRESH_SECONDS = env.float("CONSOLE_REFRESH_SECONDS", default=3.0)

# The Shopify app: session tokens name its key; several secrets, comma separated, while one is rotated out.
SHOPIFY_API_KEY = env.str("SHOPIFY_API_KEY", default="")
SHOPIFY_API_SECRETS = env.list("SHOPIFY_API_SECRET", default=[])
# Seconds a verified credential may be used without asking the database again: how long a revoked token can
# outlive its revocation. 5 at most.
TOKEN_CACHE_SECONDS = env.float("TOKEN_CACHE_SECONDS", default=1.0)
# Whether the time a token was last used is kept, to the hour.
RECORD_TOKEN_USE = env.bool("RECORD_TOKEN_USE", default=True)
# Whether refused requests are counted by tenant, for the console.
RECORD_REFUSALS = env.bool("RECORD_REFUSALS", default=True)

# Requests a minute; 0 switches the limit off.
RATE_LIMIT_PER_TENANT = env.int("RATE_LIMIT_PER_TENANT", default=0)
RATE_LIMIT_FAILED_PER_ADDRESS = env.int("RATE_LIMIT_FAILED_PER_ADDRESS", default=0)

# Networks that webhooks may be sent to besides the public internet, also by plain http; loopback in a trial.
WEBHOOK_ALLOWED_NETWORKS = env.networks("WEBHOOK_ALLOWED_NETWORKS")
if not WEBHOOK_ALLOWED_NETWORKS and not production_settings_given():
    WEBHOOK_ALLOWED_NETWORKS = [ip_network("127.0.0.0/8"), ip_network("::1/128")]
# Requests of a delivery process that wait for an answer at a time: to one endpoint, and in all.
WEBHOOK_REQUESTS_PER_ENDPOINT = env.int("WEBHOOK_REQUESTS_PER_ENDPOINT", default=20)
WEBHOOK_REQUESTS_PER_WORKER = env.int("WEBHOOK_REQUESTS_PER_WORKER", default=1_000)

# How long a stream lasts before its reader has to reconnect, in seconds.
STREAM_SECONDS = env.float("STREAM_SECONDS", default=300)
# Streams and waiting requests at a time: of a tenant in all workers (with CACHE_URL, else in each), and in a worker.
STREAMS_PER_TENANT = env.int("STREAMS_PER_TENANT", default=100)
STREAMS_PER_WORKER = env.int("STREAMS_PER_WORKER", default=5_000)


def cache(url: str) -> dict[str, Any]:
    """Django's settings for the cache at ``url``, "" for one in this process; a server that hangs costs two seconds."""
    if not url:  # holds enough that no caller's count is dropped before its minute is over
        local_memory = "django.core.cache.backends.locmem.LocMemCache"
        return {"BACKEND": local_memory, "OPTIONS": {"MAX_ENTRIES": 100_000}}
    return {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": parse_cache_url("CACHE_URL", url),
        "OPTIONS": {"socket_connect_timeout": 0.4, "socket_timeout": 0.4},  # seconds; parameters of the URL win
    }


# Where the rate limits are counted: redis:// or valkey://, else in each process for itself.
CACHES = {"default": cache(env.str("CACHE_URL", default=""))}

REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["jobs.api.rendering.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": [],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "UNAUTHENTICATED_USER": None,
}

# In the OpenAPI document: whom its readers can ask, and on which terms they may use the API. Members that are not set
# are left out.
OPENAPI_CONTACT = {
    "name": env.str("OPENAPI_CONTACT_NAME"),
    "url": env.str("OPENAPI_CONTACT_URL"),
    "email": env.str("OPENAPI_CONTACT_EMAIL"),
}
OPENAPI_LICENSE = {"name": env.str("OPENAPI_LICENSE_NAME"), "url": env.str("OPENAPI_LICENSE_URL")}

SPECTACULAR_SETTINGS = {
    "TITLE": "Jobs Gateway",
    "VERSION": "1.0.0",  # the contract's, not the software's
    "DESCRIPTION": (BASE_DIR / "jobs_gateway" / "openapi.md").read_text(),
    "TAGS": [
        {"name": "jobs", "description": "Image workflows: their progress and their pictures."},
        {"name": "fleet", "description": "All jobs, operations on one or many agents included, with counts."},
    ],
    "CONTACT": {name: value for name, value in OPENAPI_CONTACT.items() if value},
    "LICENSE": {name: value for name, value in OPENAPI_LICENSE.items() if value},
    "OAS_VERSION": "3.1.0",
    "ENUM_NAME_OVERRIDES": {"JobStatus": "jobs.api.v1.params.V1Status"},
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "GENERIC_ADDITIONAL_PROPERTIES": "bool",
    "DISABLE_DOCSTRING_DESCRIPTIONS": True,  # they are for those who change the code
    "SORT_OPERATIONS": False,
    "SORT_OPERATION_PARAMETERS": False,
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "jobs_gateway.openapi.as_published"],
}

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

# Where Prometheus finds /metrics, for anyone who can reach it; 0 is nowhere. Processes count into files they share.
METRICS_HOST = env.str("METRICS_HOST", default="127.0.0.1")
METRICS_PORT = env.int("METRICS_PORT", default=0)
METRICS_DIR = DATA_DIR / "metrics" / str(METRICS_PORT)
if METRICS_PORT:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(made(METRICS_DIR))  # before anything imports prometheus_client
# Whether each request leaves a line in the log.
ACCESS_LOG = env.bool("ACCESS_LOG", default=True)

UNKNOWN_SETTINGS = env.unknown_names()  # after the last setting is read; `manage.py check` names them

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"lines": {"()": "jobs_gateway.logs.formatter"}},
    "filters": {"with_trace": {"()": "jobs_gateway.logs.WithTrace"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "django": {"handlers": [], "level": "WARNING"},
        "django.request": {"level": "ERROR", "filters": ["with_trace"]},
        "django.security.DisallowedHost": {"level": "CRITICAL"},  # what a caller sent is no error of ours
        # In the workers. The server's main process writes by granian_logs.json, without a module of ours: what it has
        # loaded stays as it is through every reload.
        "_granian": {"handlers": ["stderr"], "propagate": False},
    },
}
