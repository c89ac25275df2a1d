"""Amazon S3, and every server that speaks like it."""

import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import UsageError
from lora_cli.settings import Settings
from lora_cli.sources.aws import Account, find_account
from lora_cli.sources.object_refusals import Asker, Words
from lora_cli.sources.object_wishes import Wishes
from lora_cli.sources.objects import Bucket, ObjectSource, client_options, object_key, version_key
from lora_cli.sources.private import bounds_of, check_host
from lora_cli.sources.s3_checksum import checksum, hexadecimal, may_have_one
from lora_cli.sources.s3_requests import is_told_apart, reading, signed_look
from lora_cli.sources.urls import host

if TYPE_CHECKING:
    from lora_cli.core.manifest import SourceRule

ASKERS = 16
"""So many checksums are asked for at once, beside the bytes."""

A_LOOK = 1 << 20
"""Whoever reads less than this from the beginning of a larger file looks at its header, and will not ask."""

RENEWED_AFTER = timedelta(minutes=5)
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


class S3Source(ObjectSource):
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
            self._asking(revision, file, self._bucket(revision.ref))
        return super().read(revision, file, start, stop)

    def _stream(
        self, bucket: Bucket, revision: Revision, file: RemoteFile, start: int, end: int, *, rest: bool
    ) -> Iterator[bytes]:
        """As every object store, but not by obstore; a checksum comes along with all of an object."""
        account = self._account
        if account is None or not is_told_apart(file):
            yield from super()._stream(bucket, revision, file, start, end, rest=rest)
            return
        key, what, timeout_s = object_key(revision.ref, file), f"{revision.ref}: {file.path}", self._settings.timeout_s
        asked = (account, bucket.asker.bucket, key, file, (start, end), what, timeout_s)
        with reading(*asked, rest=rest) as (headers, body):
            self._note(revision, file, headers.get("x-amz-meta-sha256", ""))
            if (start, end) == (0, file.size) and _unsaid(file):
                said = self._checksums[version_key(revision, file)] = Future()
                said.set_result(hexadecimal(headers))
            yield from body

    def told(self, revision: Revision, file: RemoteFile) -> Mapping[str, str]:
        """The sha256 in the object's metadata, and the checksum that S3 keeps, if it has one of all the bytes."""
        asked = self._asking(revision, file, self._bucket(revision.ref))
        return {**super().told(revision, file), **(asked.result() if asked is not None else {})}

    def _asking(self, revision: Revision, file: RemoteFile, bucket: Bucket) -> "Future[Mapping[str, str]] | None":
        """The checksum, asked for once, in a thread that nobody waits for at the end of the process."""
        account = self._account
        if account is None or not _unsaid(file):
            return None
        key, what = object_key(revision.ref, file), f"{revision.ref}: {file.path}"
        answer = Future[Mapping[str, str]]()
        known = self._checksums.setdefault(version_key(revision, file), answer)

        def ask() -> None:
            try:
                with self._askers:
                    answer.set_result(checksum(account, bucket.asker.bucket, key, file, what, self._settings))
            except BaseException as error:  # noqa: BLE001 - it is raised again where the answer is wanted
                answer.set_exception(error)

        if known is answer:
            threading.Thread(target=ask, name="checksum", daemon=True).start()
        return known

    def _open(self, name: str) -> Bucket:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        account = self._account = self._account or find_account(os.environ, self._rule)
        more: dict[str, Any] = {"endpoint": account.endpoint} if account.endpoint else {}
        if account.endpoint:
            # A profile may name another server than the environment does, by which the reference was judged.
            server = urlsplit(account.endpoint).hostname or ""
            check_host(bounds_of(self._settings), server, f"s3://{name}: {account.found_in} names {server}")
        if account.keys is not None:
            more["credential_provider"] = lambda: _provided(account)
        try:
            store = S3Store(
                name,
                region=account.region,
                # obstore would take half a pair of keys in the environment for an error.
                access_key_id="",
                secret_access_key="",
                skip_signature=account.keys is None,
                request_payer=account.requester_pays,
                client_options=client_options(self._settings, account.endpoint),
                retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},
                **more,
            )
        except (BaseError, ValueError) as error:
            raise UsageError(
                f"s3://{name} cannot be opened with these settings ({type(error).__name__})",
                hint="check AWS_ENDPOINT_URL, AWS_REGION and the other AWS_ variables",
            ) from error
        server = host(account.endpoint) if account.endpoint else "S3"
        wishes = Wishes(server, lambda: signed_look(account, name), self._settings.timeout_s)
        return Bucket(store, Asker(name, server, account.found_in), wishes)


def _unsaid(file: RemoteFile) -> bool:
    """Whether S3 may have a checksum that says something new: what a lock promises is compared anyway."""
    return file.sha256 is None and may_have_one(file)


def _provided(account: Account) -> Any:
    """Keys as obstore wants them from time to time."""
    assert account.keys is not None
    keys = account.keys()
    return {
        "access_key_id": keys.access_key,
        "secret_access_key": keys.secret,
        "token": keys.token or None,
        "expires_at": None if account.lasting else datetime.now(UTC) + RENEWED_AFTER,
    }
