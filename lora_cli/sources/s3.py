"""Amazon S3, and every server that speaks like it."""

import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.settings import Settings
from lora_cli.sources.aws import Account, find_account
from lora_cli.sources.buckets import Bucket, Page
from lora_cli.sources.object_errors import Answered
from lora_cli.sources.object_refusals import Asker, Words
from lora_cli.sources.objects import ObjectSource, object_key, version_key
from lora_cli.sources.retries import Retries, Transient
from lora_cli.sources.s3_checksum import checksum, hexadecimal, may_have_one
from lora_cli.sources.s3_listing import pages
from lora_cli.sources.s3_requests import Place, asked, reading
from lora_cli.sources.ssrf_guard import bounds_of, check_host
from lora_cli.sources.trusted import trust_of
from lora_cli.sources.urls import host

if TYPE_CHECKING:
    from lora_cli.documents.manifest import SourceRule

ASKERS = 16
"""So many checksums are asked for at once, beside the bytes."""

A_LOOK = 1 << 20
"""Whoever reads less than this from the beginning of a larger file looks at its header, and will not ask."""

_EXPIRED = ("no longer accepts the session from {}", "renew it: `aws sso login`, or new keys")
_KEYS = {
    "InvalidAccessKeyId": ("does not know the access key from {}", "check which account and endpoint it is for"),
    "SignatureDoesNotMatch": (
        "does not accept the secret of the key from {}",
        "check AWS_SECRET_ACCESS_KEY, or the profile's",
    ),
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "InvalidToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
}
WORDS = Words(
    endpoint="AWS_ENDPOINT_URL",
    region="AWS_REGION",
    anonymous="unset AWS_SKIP_SIGNATURE",
    rights="s3:ListBucket on {0} and s3:GetObject on what is in it",
    credentials=_KEYS,
)


class S3Bucket(Bucket):
    """A bucket of S3, and how it is asked."""

    def __init__(self, place: Place) -> None:
        """Asks for nothing yet."""
        account = place.account
        self.place = place
        self.asker = Asker(place.bucket, host(account.endpoint) if account.endpoint else "S3", account.found_in)

    def pages(self, prefix: str) -> Iterator[Page]:
        """As every bucket. One that is in another region is asked there from then on, as other tools do it."""
        try:
            yield from pages(self.place, prefix)
        except Answered as answer:
            account = self.place.account
            if answer.region in ("", account.region):
                raise
            self.place = replace(self.place, account=replace(account, region=answer.region))
            yield from pages(self.place, prefix)

    def has(self, key: str) -> bool:
        """As every bucket."""
        try:
            with closing(asked(self.place, "HEAD", key)) as response:
                return response.status == 200 and "ETag" in response.headers
        except Transient:
            return False


class S3Source(ObjectSource[S3Bucket]):
    """Buckets of S3 as a source. Credentials are looked for when the first bucket is opened."""

    words = WORDS

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and looks for no credentials yet; ``rule`` says whose are used, and where."""
        super().__init__(settings)
        self._rule = rule
        self._account: Account | None = None
        self._checksums: dict[tuple[str, str, str], Future[Mapping[str, str]]] = {}
        self._askers = threading.BoundedSemaphore(ASKERS)

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """As every object store; beside the first range of a file that is fetched its checksum is asked for."""
        if start == 0 and stop is not None and A_LOOK <= stop < (file.size or 0):
            self._asking(revision, file)
        return super().read(revision, file, start, stop)

    def _stream(
        self, bucket: S3Bucket, revision: Revision, file: RemoteFile, start: int, end: int, *, rest: bool
    ) -> Iterator[bytes]:
        """As every object store; a checksum comes along with all of an object."""
        key, what = object_key(revision.ref, file), f"{revision.ref}: {file.path}"
        with reading(bucket.place, key, file, (start, end), what, rest=rest) as (headers, body):
            self._note(revision, file, headers.get("x-amz-meta-sha256", ""))
            if (start, end) == (0, file.size) and _unsaid(file):
                said = self._checksums[version_key(revision, file)] = Future()
                said.set_result(hexadecimal(headers))
            yield from body

    def told(self, revision: Revision, file: RemoteFile) -> Mapping[str, str]:
        """The sha256 in the object's metadata, and the checksum that S3 keeps, if it has one of all the bytes."""
        checksum = self._asking(revision, file)
        return {**super().told(revision, file), **(checksum.result() if checksum is not None else {})}

    def _asking(self, revision: Revision, file: RemoteFile) -> "Future[Mapping[str, str]] | None":
        """The checksum, asked for once, in a thread that nobody waits for at the end of the process."""
        if not _unsaid(file):
            return None
        place = self._bucket(revision.ref).place
        key, what = object_key(revision.ref, file), f"{revision.ref}: {file.path}"
        answer = Future[Mapping[str, str]]()
        known = self._checksums.setdefault(version_key(revision, file), answer)

        def ask() -> None:
            try:
                with self._askers:
                    answer.set_result(checksum(place, key, file, what, Retries(self._settings.retries)))
            except BaseException as error:  # noqa: BLE001 - it is raised again where the answer is wanted
                answer.set_exception(error)

        if known is answer:
            threading.Thread(target=ask, name="checksum", daemon=True).start()
        return known

    def _open(self, name: str) -> S3Bucket:
        trust = trust_of(self._settings)
        account = self._account = self._account or find_account(os.environ, self._rule, trust)
        if account.endpoint:
            # A profile may name another server than the environment does, by which the reference was judged.
            server = urlsplit(account.endpoint).hostname or ""
            check_host(bounds_of(self._settings), server, f"s3://{name}: {account.found_in} names {server}")
        return S3Bucket(Place(account, name, self._settings.timeout_s))


def _unsaid(file: RemoteFile) -> bool:
    """Whether S3 may have a checksum that says something new: what a lock promises is compared anyway."""
    return file.sha256 is None and may_have_one(file)
