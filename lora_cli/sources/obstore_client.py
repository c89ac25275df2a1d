"""Google Cloud Storage and Azure, read through obstore.

obstore follows redirects, and cannot be told not to: it asks the providers' own servers, and those that the operator
named. It waits for as long as a server sends anything, so it is asked in threads, which are never joined.
"""

import os
import queue
import re
import threading
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from lora_cli import __version__
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Changed, Corrupt, LoraCliError, MachineError, UsageError
from lora_cli.settings import Settings
from lora_cli.sources import NoRanges
from lora_cli.sources.credentials import (
    GOOGLE,
    GOOGLE_FILE,
    CloudAccount,
    azure_account,
    find_azure_account,
    find_google_account,
)
from lora_cli.sources.http import AGAIN, FAR, Headers, host, trim
from lora_cli.sources.object_store import (
    NETWORK,
    PAGE,
    Bucket,
    Entry,
    ObjectSource,
    Page,
    StoreError,
    StoreTerms,
    object_key,
    version_of,
)
from lora_cli.sources.retries import CONNECT_TIMEOUT_S, Transient, enforce_min_throughput, from_status, printable

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import ObjectStore

    from lora_cli.core.reference import AdapterRef
    from lora_cli.documents.source_rules import SourceRule

BUSY = (408, 429, 503)
"""The answers that may say when to come back."""

FRESH_S = 1.0
"""How long all ranges in flight share one answer: a busy server is not asked by each of them."""


class Busy(Transient):
    """A server that answered with one of ``BUSY`` to a request of obstore's."""

    def __init__(self, failure: Transient, status: int) -> None:
        super().__init__(failure.reason, hint=failure.hint)
        self.status = status


class RetryAfterProbe:
    """Asks the server of one bucket for its ``Retry-After``, which obstore does not report. Threads share it."""

    def __init__(self, server: str, url: str, timeout_s: float) -> None:
        self._server, self._url, self._timeout_s = server, url, timeout_s
        self._headers: Headers = {}
        self._until = 0.0
        self._lock = threading.Lock()

    def of(self, failure: Transient) -> Transient:
        """``failure`` with the time to wait in it, when there is one."""
        if not isinstance(failure, Busy):
            return failure
        with self._lock:
            if time.monotonic() >= self._until:
                self._headers = self._ask()
                self._until = time.monotonic() + FRESH_S
            return from_status(self._server, failure.status, self._headers)

    def _ask(self) -> Headers:
        from lora_cli.sources.transport import send

        try:
            with closing(send(self._url, {}, self._timeout_s, method="HEAD")) as response:
                return response.headers if response.status in BUSY else {}
        except (Transient, LoraCliError):
            return {}


_STATUS = re.compile(r"Server returned (?:non-2xx status code|error response): (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_MESSAGE = re.compile(r"<Message>([^<\n]{1,200})")
# The names of these errors are obstore's; those of Python are raised as they are.
_STATUS_OF = {
    "FileNotFoundError": 404,
    "NotFoundError": 404,
    "PreconditionError": 412,
    "PermissionDeniedError": 403,
    "UnauthenticatedError": 401,
}


def translate_obstore_error(error: Exception, server: str, timeout_s: float) -> StoreError | Transient:
    """An error that obstore raised, in our words."""
    summary, _, cause = str(error).partition("\n\nDebug source:")
    found = _STATUS.search(summary)
    status = int(found[1]) if found else _STATUS_OF.get(type(error).__name__, 0)
    if "External" in summary and "credential provider" in summary:
        # Whoever gives out tokens, and not the store: when it is not there or says no, no other try helps.
        return StoreError(401, "NoToken")
    if "redirect without LOCATION" in summary:
        status = 301
    if "invalid path" in summary:
        return StoreError(200, "InvalidPath")
    if not status:
        return _no_answer(summary, cause, server, timeout_s)
    if status in (408, 429) or status >= 500:
        failure = from_status(server, status, {})
        return Busy(failure, status) if status in BUSY else failure
    code, message = _CODE.search(summary), _MESSAGE.search(summary)
    return StoreError(status, code[1] if code else "", printable(message[1]) if message else "")


def _no_answer(summary: str, cause: str, server: str, timeout_s: float) -> Transient:
    """Translates an error without an answer, from the chain of causes that obstore prints."""
    meanings = (
        (r"invalid peer certificate|InvalidCertificate", f"the certificate of {server} is not trusted", _TRUST),
        (r"dns error|failed to lookup", f"no connection to {server}: unknown host", NETWORK),
        (r"ConnectionRefused", f"no connection to {server}: it was refused", NETWORK),
        (r"TimedOut|timed out|kind: Timeout", f"{server} sent no data for {timeout_s:g} s", ""),
        (r"kind: Connect", f"no connection to {server}", NETWORK),
        (r"hyper::Error\(\s*Parse\(", f"{server} did not send an HTTP response", NETWORK),
        (r"IncompleteMessage|UnexpectedEof|ConnectionReset|BrokenPipe|kind: Decode|kind: Body|kind: Interrupted",
         f"the connection to {server} was cut", ""),
        (r"invalid XML|got invalid list|DeError|list response", f"{server} sent no listing", NETWORK),
    )  # fmt: skip
    text = f"{summary}\n{cause}"
    for pattern, reason, hint in meanings:
        if re.search(pattern, text):
            final = hint is _TRUST or bool(_UNKNOWN_HOST.search(text))
            return Transient(reason, hint=hint or "try again later", final=final)
    return Transient(f"communication with {server} failed: {printable(summary.splitlines()[0] if summary else '')}")


_UNKNOWN_HOST = re.compile("Name or service not known|No address associated with hostname|nodename nor servname")
_TRUST = "set SSL_CERT_FILE to the certificates to trust"


CHUNK = 1 << 20
PIECE = 256 * 1024
T = TypeVar("T")


class _Ended(NamedTuple):
    """The end of what a thread reads, and the error that ended it."""

    error: Exception | None


class ObstoreBucket(Bucket):
    """A bucket of obstore's. A forked process must not use it: obstore's threads do not follow into the child."""

    def __init__(
        self, store: "ObjectStore", name: str, server: str, user: str, retry_after: RetryAfterProbe, timeout_s: float
    ) -> None:
        """``retry_after`` asks the server how long it is busy; it may be silent for ``timeout_s``."""
        super().__init__(name, server, user)
        self._store, self._retry_after, self._timeout_s = store, retry_after, timeout_s
        self._piece_bytes = PIECE

    def pages(self, prefix: str) -> Iterator[Page]:
        """As ``Bucket``."""
        import obstore

        # The request itself has a limit of nearly the same length: it is told first, if it is the reason.
        found = _in_a_thread(obstore.list(self._store, prefix or None, chunk_size=PAGE), self._timeout_s + 1)
        try:
            for page in found:
                yield Page([Entry(one["path"], one["size"], _version(one)) for one in page], last=len(page) < PAGE)
        except queue.Empty:
            raise Transient(f"{self.server} listed nothing for {self._timeout_s:g} s") from None
        except Exception as error:
            raise translate_obstore_error(error, self.server, self._timeout_s) from error
        yield Page([], last=True)

    def has(self, key: str) -> bool:
        """As ``Bucket``."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            return bool(obstore.head(self._store, key)["e_tag"])
        except (BaseError, OSError):
            return False

    def with_retry_after(self, failure: Transient) -> Transient:
        """As ``Bucket``: obstore does not report how long a server asks to wait, so that is asked."""
        return self._retry_after.of(failure)

    def get(self, key: str, file: RemoteFile, start: int, end: int, *, rest: bool) -> "GetResult":
        """The answer to one request: the range, or all of it from a server that does not know ranges.

        Raises:
            NoRanges: it does not, and the range is neither near the beginning nor the ``rest`` of the file.
        """
        import obstore

        options: GetOptions = {}
        kind, _, etag = file.version.partition(":")
        if kind == "etag":
            options["if_match"] = f'"{etag}"'
        if (start, end) == (0, file.size):
            return obstore.get(self._store, key, options=options)
        try:
            return obstore.get(self._store, key, options={**options, "range": (start, end)})
        except obstore.exceptions.GenericError as error:
            if "non-partial response" not in str(error):
                raise
            if not rest and start >= FAR:
                hint = "fetch it: lora-cli fetch can read it as one stream"
                raise NoRanges(f"{key}: its server only sends whole files", hint=hint) from error
            return obstore.get(self._store, key, options=options)

    def body(self, answer: "GetResult") -> Iterator[bytes]:
        """The answer in pieces of at least 256 KiB; once a stream broke, as they come, so that no byte is lost.

        Raises:
            Transient: it trickles at less than 1 KiB/s over the timeout, or at less than a piece.
        """
        pieces = (bytes(piece) for piece in answer.stream(min_chunk_size=self._piece_bytes))
        try:
            yield from enforce_min_throughput(_in_a_thread(pieces, self._timeout_s + 1), self.server, self._timeout_s)
        except queue.Empty:
            self._piece_bytes = 1
            message = f"{self.server} sent less than {PIECE >> 10} KiB in {self._timeout_s:g} s"
            raise Transient(message, slow=True) from None
        except Exception:
            self._piece_bytes = 1
            raise


class ObjectStoreSource(ObjectSource[ObstoreBucket]):
    """Buckets that obstore opens. Credentials are looked for when the first bucket of an account is opened.

    ``variables`` is how the names of those begin that obstore reads.
    """

    scheme: ClassVar[str]
    variables: ClassVar[str]

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and looks for no credentials yet; ``rule`` says whose are used, and where."""
        super().__init__(settings)
        self._rule = rule
        self._accounts: dict[str, CloudAccount] = {}
        self._process = os.getpid()

    @abstractmethod
    def _account(self, name: str) -> CloudAccount:
        """The account for the bucket ``name``; it is looked for once."""

    @abstractmethod
    def _store(self, name: str, account: CloudAccount, **how: Any) -> "ObjectStore":
        """Obstore's own bucket."""

    def _bucket(self, ref: "AdapterRef") -> ObstoreBucket:
        if os.getpid() != self._process:
            # obstore's threads do not follow into a child, which would wait for them for ever.
            raise MachineError(f"{ref}: {ref.scheme}:// cannot be read in a forked process", hint="start a new process")
        return super()._bucket(ref)

    def _stream(
        self, bucket: ObstoreBucket, revision: Revision, file: RemoteFile, start: int, end: int, *, rest: bool
    ) -> Iterator[bytes]:
        """As ``ObjectSource``; a server that is slow, silent or breaks off is ``Transient``."""
        key, what = object_key(revision.ref, file), f"{revision.ref}: {file.path}"
        try:
            answer = bucket.get(key, file, start, end, rest=rest)
            skip = start - _check_version(answer, file, (start, end), what)
            self._record_digest(revision, file, str(answer.attributes.get("sha256", "")))
            for piece in trim(bucket.body(answer), skip, end - start, what, exact=False):
                for offset in range(0, len(piece), CHUNK):
                    yield piece[offset : offset + CHUNK]
        except (LoraCliError, Transient):
            raise
        except Exception as error:
            raise translate_obstore_error(error, bucket.server, self._settings.timeout_s) from error

    def _open(self, name: str) -> ObstoreBucket:
        from obstore.exceptions import BaseError

        account, timeout_s = self._account(name), self._settings.timeout_s
        server = "Google Cloud Storage" if account.endpoint == GOOGLE else host(account.endpoint)
        try:
            store = self._store(
                name,
                account,
                credential_provider=account.provider,
                skip_signature=account.provider is None,
                retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},
                client_options={
                    "allow_http": account.endpoint.lower().startswith("http://"),
                    # The longest time of a whole answer; how long it is silent is what counts.
                    "timeout": timedelta(days=7),
                    "read_timeout": timedelta(seconds=timeout_s),
                    "connect_timeout": timedelta(seconds=min(timeout_s, CONNECT_TIMEOUT_S)),
                    "user_agent": f"lora-cli/{__version__}",
                },
            )
        except (BaseError, ValueError) as error:
            raise UsageError(
                f"{self.scheme}://{name} cannot be opened with the credentials from {account.found_in} "
                f"({type(error).__name__})",
                hint=f"check the {self.variables} variables, which obstore also reads",
            ) from error
        retry_after = RetryAfterProbe(server, f"{account.endpoint}/{name.partition('@')[0]}", timeout_s)
        return ObstoreBucket(store, name, server, account.found_in, retry_after, timeout_s)


_GOOGLE_REFUSED = ("does not accept the credentials from {}", "renew them: `gcloud auth application-default login`")


class GoogleStorage(ObjectStoreSource):
    """Buckets of Google Cloud Storage, and of every server that speaks its XML API."""

    scheme, variables = "gs", "GOOGLE_"
    words = StoreTerms(
        endpoint="STORAGE_EMULATOR_HOST",
        region="the region",
        anonymous="unset GOOGLE_SKIP_SIGNATURE",
        rights="storage.objects.list and storage.objects.get on {0}: the role Storage Object Viewer",
        credentials={
            "InvalidAuthentication": _GOOGLE_REFUSED,
            "AuthenticationRequired": _GOOGLE_REFUSED,
            "NoToken": (
                "could not get a token with the credentials from {}",
                f"run `gcloud auth application-default login`, or set {GOOGLE_FILE}",
            ),
        },
    )

    def _account(self, name: str) -> CloudAccount:
        if not self._accounts:
            self._accounts[""] = find_google_account(os.environ, self._rule)
        return self._accounts[""]

    def _store(self, name: str, account: CloudAccount, **how: Any) -> "ObjectStore":
        from obstore.store import GCSStore

        return GCSStore(name, base_url=account.endpoint, **how)


_AZURE_REFUSED = (
    "does not accept the credentials from {}",
    "check which account they are for, and whether they have expired",
)
_NOT_PUBLIC = ("denies access without credentials", "unset AZURE_SKIP_SIGNATURE, and set credentials")


class AzureStorage(ObjectStoreSource):
    """Containers of Azure Blob Storage and Data Lake Storage."""

    scheme, variables = "az", "AZURE_"
    words = StoreTerms(
        endpoint="AZURE_STORAGE_ENDPOINT",
        region="the region",
        anonymous="unset AZURE_SKIP_SIGNATURE",
        rights="the role Storage Blob Data Reader on {0}",
        credentials={
            "AuthenticationFailed": _AZURE_REFUSED,
            "InvalidAuthenticationInfo": _AZURE_REFUSED,
            "PublicAccessNotPermitted": _NOT_PUBLIC,
            "NoToken": (
                "received no request: the credentials from {} cannot be used",
                "run `az login`, or check AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
            ),
        },
        bucket="container",
    )

    def _account(self, name: str) -> CloudAccount:
        account = azure_account(name, os.environ)
        if account not in self._accounts:
            self._accounts[account] = find_azure_account(name, os.environ, self._rule)
        return self._accounts[account]

    def _store(self, name: str, account: CloudAccount, **how: Any) -> "ObjectStore":
        from obstore.store import AzureStore

        return AzureStore(
            name.partition("@")[0],
            account_name=azure_account(name, os.environ),
            endpoint=account.endpoint,
            use_emulator=False,
            use_fabric_endpoint=False,
            **how,
        )


def _version(meta: "ObjectMeta") -> str:
    return version_of(meta["e_tag"] or "", meta["last_modified"])


def _check_version(answer: "GetResult", file: RemoteFile, wanted: tuple[int, int], what: str) -> int:
    """The start of the answer, if it is of the listed version: some servers ignore the condition.

    Raises:
        Corrupt: it is of another version, or of another range than was asked for.
    """
    if _version(answer.meta) != file.version or answer.meta["size"] != file.size:
        raise Changed(f"{what}: it was overwritten after it was listed", hint=AGAIN)
    start, stop = answer.range
    if (start, stop) not in (wanted, (0, file.size)):
        raise Corrupt(f"{what}: bytes {wanted[0]} to {wanted[1]} were requested, but the server sent others")
    return start


def _in_a_thread(items: Iterable[T], longest_s: float) -> Iterator[T]:
    """``items``, asked for in a thread, a few ahead of the reader; each must come within ``longest_s``.

    Raises:
        queue.Empty: one does not. Nobody waits for the thread then.
    """
    found: queue.Queue[T | _Ended] = queue.Queue(maxsize=2)
    left = threading.Event()

    def ask() -> None:
        try:
            for item in items:
                found.put(item)
                if left.is_set():
                    return
            found.put(_Ended(None))
        except BaseException as error:  # noqa: BLE001 - a panic of the library is none of Python's usual errors
            found.put(_Ended(error if isinstance(error, Exception) else RuntimeError(type(error).__name__)))

    threading.Thread(target=ask, name="obstore", daemon=True).start()
    try:
        while not isinstance(item := found.get(timeout=longest_s), _Ended):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        left.set()
        with suppress(queue.Empty):
            found.get_nowait()
