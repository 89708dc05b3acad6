"""Artifacts in a bucket of S3 or of a compatible server, behind presigned URLs."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError
from botocore.httpsession import URLLib3Session
from storages.backends.s3 import S3Storage

from jobs.artifacts.credentials import SigningCredentials
from jobs.artifacts.objects import CHUNK_BYTES, ObjectMetadata, RangeReader, StoredObject, image_size
from jobs.artifacts.signing import CannotSign, LinkSigner, signing_times
from jobs.artifacts.sigv4 import Credentials, Presigner
from tenants.fast_settings import settings

PROBE_SECONDS = 2.0  # to connect, and between two packets of a response; longer than /readyz waits for it


class StoreRefused(Exception):
    """The artifact store rejects our requests: no such bucket, an unknown access key, or a wrong secret."""


@lru_cache(maxsize=8)
def _links(root: str, region: str, credentials: Credentials, signed_at: int, expires_at: int) -> LinkSigner:
    return LinkSigner(Presigner(root, region, credentials, signed_at, expires_at).url, expires_at)


def bucket_url_and_region(client: Any, bucket: str) -> tuple[str, str]:
    """The bucket's URL and the region to sign for, as botocore derives them from endpoint, region and bucket."""
    url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "-"})
    root, _, query = url.partition("-?")
    return root, parse_qs(query)["X-Amz-Credential"][0].split("/")[-3]


def _checksum(answer: dict[str, Any]) -> str:
    return "etag:" + answer["ETag"].strip('"')


class SignedS3Storage(S3Storage):
    """django-storages' S3 storage, whose presigned URLs are constant for a window and take 4 µs (boto3's take 260).

    Credentials are those of django-storages: settings, environment, then boto3's chain.
    """

    def get_default_settings(self) -> dict[str, Any]:
        defaults = {**super().get_default_settings(), "signature_version": "s3v4", "file_overwrite": False}
        if os.environ.get("AWS_CREDENTIAL_EXPIRATION"):
            # django-storages reads keys from the environment without their expiry; boto3's own chain reads both.
            defaults.update(access_key=None, secret_key=None, security_token=None)
        return defaults

    @cached_property
    def credentials(self) -> SigningCredentials:
        return SigningCredentials(lambda: self._create_session().get_credentials())

    @cached_property
    def _bucket_url_and_region(self) -> tuple[str, str]:
        client = self._create_session().client(
            "s3",
            region_name=self.region_name,
            use_ssl=self.use_ssl,
            endpoint_url=self.endpoint_url,
            config=self.client_config,
            aws_access_key_id="address",  # nothing is sent; only the form of the URL is used
            aws_secret_access_key="address",  # noqa: S106
        )
        return bucket_url_and_region(client, self.bucket_name)

    @cached_property
    def base_urls(self) -> tuple[str, ...]:
        """All URLs of the endpoint. Of AWS, which serves other customers too, those of the bucket in any region."""
        bucket = self.bucket_name
        bases = (f"https://{bucket}.s3*.amazonaws.com*/", f"https://s3*.amazonaws.com*/{bucket}/")
        root = urlsplit(self._bucket_url_and_region[0])
        if re.search(r"\.amazonaws\.com(\.cn)?$", root.hostname or ""):
            return bases
        host, path = root.netloc.removeprefix(f"{bucket}."), root.path.removesuffix(f"{bucket}/")
        return (*bases, f"{root.scheme}://{host}{path}", f"{root.scheme}://{bucket}.{host}{path}")

    def links(self, base_url: str) -> LinkSigner:
        """The signer of the current window and credentials; ``base_url`` is not used. 3 µs. Raises CannotSign."""
        credentials, expiry = self.credentials.now()
        now = time.time()
        signed_at, expires_at = signing_times(now, settings.PRESIGN_TTL_SECONDS)
        if expiry is not None and expiry < expires_at:
            expires_at = int(expiry)
            if expires_at <= now:
                raise CannotSign("The temporary credentials of the artifact store have expired.")
        return _links(*self._bucket_url_and_region, credentials, signed_at, expires_at)

    def url(self, name: str) -> str:
        """The URL as in an API response."""
        return self.links("").url(name)

    def probe(self) -> None:
        """Requests a missing object by a presigned URL. Raises StoreRefused, CannotSign or a network error."""
        request = AWSRequest("GET", self.url("readyz")).prepare()
        response = URLLib3Session(timeout=PROBE_SECONDS).send(request)
        code = re.search(rb"<Code>(\w+)</Code>", response.content)
        # S3 answers AccessDenied for a missing key if the credentials may read objects and not list them.
        if response.status_code != 200 and not (code and code[1] in (b"NoSuchKey", b"AccessDenied")):
            raise StoreRefused(f"{response.status_code} {code[1].decode() if code else ''}")

    def list_versions(self, prefix: str) -> Iterator[list[dict[str, str]]]:
        if not prefix:
            raise ValueError("everything in the bucket is no tenant's")
        for page in self.bucket.object_versions.filter(Prefix=prefix).pages():
            if found := [{"Key": each.object_key, "VersionId": each.id} for each in page]:
                yield found

    def delete_versions(self, some: list[dict[str, str]]) -> None:
        """Raises StoreRefused for the first that the store keeps."""
        for error in self.bucket.delete_objects(Delete={"Objects": some, "Quiet": True}).get("Errors", []):
            raise StoreRefused(f"{error['Code']}: {error['Message']}")

    def list_objects(self, prefix: str, after: str) -> Iterator[StoredObject]:
        begin = {"StartAfter": after} if after else {}
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket_name, Prefix=prefix, **begin)
        for page in pages:
            for each in page.get("Contents", ()):
                if each["Size"] or not each["Key"].endswith("/"):  # S3 consoles create these as folders
                    yield StoredObject(each["Key"], each["Size"], _checksum(each))

    def object_exists(self, storage_key: str) -> bool:
        try:
            self._client.head_object(Bucket=self.bucket_name, Key=storage_key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            return False
        return True

    def read_metadata(self, found: StoredObject) -> ObjectMetadata:
        """One request for the first bytes; more if the image size is further behind."""
        try:
            return self._metadata(found)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            raise FileNotFoundError(found.storage_key) from error

    def _metadata(self, found: StoredObject) -> ObjectMetadata:
        whose = {"Bucket": self.bucket_name, "Key": found.storage_key}
        if not found.size:  # S3 rejects a range of an empty object
            head = self._client.head_object(**whose)
            return ObjectMetadata(head["ContentLength"], head["ContentType"], _checksum(head), None, None)
        first = self._client.get_object(**whose, Range=f"bytes=0-{CHUNK_BYTES - 1}")
        start = first["Body"].read()
        size = int(first["ContentRange"].rpartition("/")[2]) if "ContentRange" in first else len(start)

        def read_range(begin: int, end: int) -> bytes:
            if end <= len(start):
                return start[begin:end]
            more = self._client.get_object(**whose, Range=f"bytes={begin}-{end - 1}", IfMatch=first["ETag"])
            return more["Body"].read()

        dimensions = image_size(RangeReader(size, read_range).buffered())
        return ObjectMetadata(size, first["ContentType"], _checksum(first), *dimensions)

    def open_object(self, found: StoredObject) -> IO[bytes]:
        """A file of the object, read by ranges of 1 MiB, so that no connection stays open between two reads.

        Reading raises botocore's errors if the store fails or the object was replaced.
        """
        whose = {"Bucket": self.bucket_name, "Key": found.storage_key}
        if found.checksum:
            whose["IfMatch"] = found.checksum.removeprefix("etag:")

        def read_range(begin: int, end: int) -> bytes:
            return self._client.get_object(**whose, Range=f"bytes={begin}-{end - 1}")["Body"].read()

        return RangeReader(found.size, read_range).buffered(2**20)

    def delete_objects(self, storage_keys: list[str]) -> None:
        self.delete_versions([{"Key": each} for each in storage_keys])

    @property
    def _client(self) -> Any:
        """boto3's client, which is thread-safe."""
        return self.connection.meta.client
