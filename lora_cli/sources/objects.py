"""``s3://``, ``gs://`` and ``az://``: buckets over obstore. A prefix is a folder, and its ETags pin what is read."""

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_cli.errors import (
    AccessDenied,
    Changed,
    LoraCliError,
    MachineError,
    NotFound,
    Refused,
    Unreachable,
    UsageError,
)
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.settings import Settings
from lora_cli.sources import CONNECT_TIMEOUT_S, NoRanges, Source, Transient, at_most_10_000, from_status
from lora_cli.sources.cloud_credentials import NOBODY, Account, find_account
from lora_cli.sources.http import AGAIN, FAR
from lora_cli.version import __version__

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import ObjectStore

    from lora_cli.documents.source_rules import SourceRule

PIECE = 1 << 16
"""How many bytes of a stream come at once; so many are lost, and asked for again, where it breaks off."""

_AWS_LOGIN = "try `aws sts get-caller-identity`; `aws sso login` renews a session"
_GOOGLE_LOGIN = "run `gcloud auth application-default login`"
_AZURE_LOGIN = "run `az login`, or check AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"
TERMS = {
    "s3": ("AWS", "AWS_ENDPOINT_URL", _AWS_LOGIN, "it needs s3:ListBucket and s3:GetObject"),
    "gs": ("GOOGLE", "STORAGE_EMULATOR_HOST", _GOOGLE_LOGIN, "it needs the role Storage Object Viewer"),
    "az": ("AZURE", "AZURE_STORAGE_ENDPOINT", _AZURE_LOGIN, "it needs the role Storage Blob Data Reader"),
}
"""How the variables of each kind of store begin, which names its server, what to try, and which rights are needed."""

_ENDPOINT = "check the spelling, and the endpoint ({endpoint})"
_PRIVATE = "it is not public: set credentials, and unset {prefix}_SKIP_SIGNATURE, or anonymous in [[sources]]"
_NETWORK = "check the network, HTTPS_PROXY and the endpoint ({endpoint})"
_TRUST = "set SSL_CERT_FILE to the certificates to trust (for s3:// also AWS_CA_BUNDLE)"
_WRONG_KEYS = r"^\w+ \d+ (InvalidA(ccess|uth)|Signature|(Expired|Invalid)Token|TokenRef|Authentication[RF])"
_MOVED = r"^\w+ (30[1278]|\d+ AuthorizationHeaderMalformed)|redirect without LOCATION"
_NO_TOKENS = "credential provider: .*(Transport|ServiceRe|Connect|Timeout|Caused by)"
_UNKNOWN = "Name or service not known|No address associated with hostname|nodename nor servname"


class OtherRegion(NotFound):
    """A bucket that is in another region than the one that was asked."""


_ERRORS: tuple[tuple[str, type[LoraCliError | Transient], str, str], ...] = (
    ("^read (404|412|416)", Changed, "it was overwritten or removed after it was listed", AGAIN),
    (r"^\w+ 404", NotFound, "there is no bucket {name} at {server} ({answer})", _ENDPOINT),
    (_MOVED, OtherRegion, "the bucket {name} is in another region", "set AWS_REGION, or region in [[sources]]"),
    (r"^\w+ \d+ \w*TimeTooSkewed", MachineError, "this machine's clock differs from {server}'s", "set the clock"),
    (_WRONG_KEYS, AccessDenied, "{server} does not accept the credentials from {user} ({answer})", "{login}"),
    (r"^\w+ 40[13].* nobody$", AccessDenied, "{server} denies access without credentials ({answer})", _PRIVATE),
    (r"^\w+ 40[13]", AccessDenied, "{server} denies access with the credentials from {user} ({answer})", "{rights}"),
    (r"^\w+ \d", Unreachable, "{server} answered {answer}", _NETWORK),
    (_NO_TOKENS, Transient, "no connection to the service that renews the credentials from {user}", _NETWORK),
    ("credential provider", AccessDenied, "the credentials from {user} cannot be used", "{login}"),
    ("invalid path", Refused, "a key below it is not a valid file path", "its owner must rename it"),
    ("invalid peer certificate|InvalidCertificate", Unreachable, "the certificate of {server} is not trusted", _TRUST),
    (_UNKNOWN, Unreachable, "no connection to {server}: the name of the host is not known", _NETWORK),
    ("TimedOut|timed out|kind: Timeout", Transient, "{server} sent no data for {timeout_s:g} s", _NETWORK),
    ("ConnectionRefused|kind: Connect|dns error", Transient, "no connection to {server}", _NETWORK),
    ("", Transient, "communication with {server} failed: it sent no whole answer", _NETWORK),
)
"""A pattern, what is raised (a ``Transient`` is tried again), what that says, and what to try.

The pattern is looked for in "VERB STATUS CODE" of an answer, with " nobody" if no credentials were sent, such as "list
403 AccessDenied nobody"; where there was no answer, in what obstore says of the causes. The first row counts.
"""

_STATUS = re.compile(r"Server returned (?:non-2xx status code|error response): (\d{3})")
_processes: set[int] = set()  # where obstore's threads run: they do not follow into a fork, which would wait for ever


class ObjectSource(Source):
    """Buckets as a source. A revision is a fingerprint of paths, sizes and ETags, else times of change."""

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        super().__init__(settings, rule)
        self._buckets: dict[str, tuple[ObjectStore, Account, str]] = {}
        self._reported: dict[tuple[str, str, str], str] = {}
        self._lock = threading.Lock()

    def _resolve(self, ref: AdapterRef) -> Revision:
        import obstore

        prefix = _prefix(ref)

        def listed(store: "ObjectStore") -> "list[ObjectMeta]":
            pages = obstore.list(store, prefix or None, chunk_size=100)
            return list(at_most_10_000((meta for page in pages for meta in page), str(ref)))

        found = self._ask(ref, "list", "", listed)
        # Empty objects that stand for a folder are no files.
        keys = [meta["path"] for meta in found]
        folders = {prefix.rstrip("/"), *(key[: slash.start()] for key in keys for slash in re.finditer("/", key))}
        files = [
            RemoteFile(meta["path"].removeprefix(prefix), meta["size"], version=_version(meta))
            for meta in found
            if meta["size"] or meta["path"].rstrip("/") not in folders
        ]
        if not files:
            hint = f"check the spelling and {TERMS[ref.scheme][1]}, and write the folder, no file and no revision"
            raise NotFound(f"{ref}: there is nothing below {prefix or 'it'}", hint=hint)
        return Revision.of_listing(ref, files)

    def _stream(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        ref = revision.ref
        get = partial(_get, ref=ref, file=file, start=start, stop=stop)
        answer: GetResult = self._ask(ref, "read", file.path, get)
        if (answer.meta["size"], _version(answer.meta)) != (file.size, file.version):
            raise Changed(f"{ref}: {file.path}: it was overwritten after it was listed", hint=AGAIN)
        self._reported[ref.location, file.path, file.version] = str(answer.attributes.get("sha256", "")).lower()
        skip, left = start - answer.range[0], (stop or file.size or 0) - start
        try:
            for piece in answer.stream(min_chunk_size=PIECE if left > PIECE else 1):
                wanted = bytes(memoryview(piece)[skip : skip + left])
                skip, left = max(0, skip - len(piece)), left - len(wanted)
                if wanted:
                    yield wanted
                if not left:
                    return
        except Exception as error:
            raise self._translated(error, ref, "read", file.path) from error

    def reported_digests(self, revision: Revision, file: RemoteFile) -> Mapping[str, str]:
        """The sha256 in the object's metadata, once it was read: ``metadata sha256`` → hexadecimal digits."""
        found = self._reported.get((revision.ref.location, file.path, file.version), "")
        return {"metadata sha256": found} if re.fullmatch(r"[0-9a-f]{64}", found) else {}

    def _ask(self, ref: AdapterRef, verb: str, path: str, ask: "Callable[[ObjectStore], Any]") -> Any:
        """What ``ask`` gives; a bucket that is in another region is asked there from then on."""
        store, account, region = self._bucket(ref)
        try:
            return ask(store)
        except LoraCliError:
            raise
        except Exception as error:
            failure = self._translated(error, ref, verb, path)
            moved = isinstance(failure, OtherRegion) and not region
            if not (moved and (region := account.region_of(ref.location.partition("/")[0]))):
                raise failure from error
        self._bucket(ref, region)
        return self._ask(ref, verb, path, ask)

    def _bucket(self, ref: AdapterRef, region: str = "") -> "tuple[ObjectStore, Account, str]":
        """The bucket of ``ref``, whose it is, and the region that was found for it ("": the account's); opened once."""
        if _processes and os.getpid() not in _processes:
            raise MachineError(f"{ref}: a forked process cannot read it", hint="start a new process")
        name = ref.location.partition("/")[0]
        with self._lock:
            if region or name not in self._buckets:
                account = self._buckets[name][1] if region else find_account(ref.scheme, ref.location, self._rule)
                store = _open(ref.scheme, name.partition("@")[0], account, self._settings.timeout_s, region)
                self._buckets[name] = store, account, region
                _processes.add(os.getpid())
            return self._buckets[name]

    def _translated(self, error: Exception, ref: AdapterRef, verb: str, path: str) -> LoraCliError | Transient:
        """An error of obstore in our words; only few of its own, which may hold a signed address, are shown."""
        account, text = self._bucket(ref)[1], str(error).partition("\n\nDebug source:")[0]
        status, code, message = (
            "".join(re.findall(pattern, text)[:1])
            for pattern in (_STATUS, "<Code>([A-Za-z0-9.]{1,64})</Code>", r"<Message>([^<\n]{1,2000})")
        )
        if status in {"408", "429"} or status >= "500":
            return from_status(account.server, int(status), {})  # obstore does not show its Retry-After
        said = f"{verb} {status} {code}{' nobody' * (account.found_in == NOBODY)}" if status else str(error)
        _, kind, says, hint = next(row for row in _ERRORS if re.search(row[0], said))
        message = re.sub(r"\w{20,}", "***", message)[:200]
        words: dict[str, Any] = {
            **{"server": account.server, "user": account.found_in, "answer": f"{status} {code} {message}".strip()},
            **{"name": re.split("[@/]", ref.location)[0], "timeout_s": self._settings.timeout_s},
            **dict(zip(("prefix", "endpoint", "login", "rights"), TERMS[ref.scheme], strict=True)),
        }
        says, hint = says.format(**words), hint.format(**words)
        if issubclass(kind, Transient):
            return kind(says, hint=hint)
        return kind(f"{ref}{path and f': {path}'}: {says}", hint=hint)


def _open(scheme: str, name: str, account: Account, timeout_s: float, region: str) -> "ObjectStore":
    """Obstore's own bucket; it tries nothing again, as we do that."""
    from obstore.exceptions import BaseError
    from obstore.store import AzureStore, GCSStore, S3Store

    client: dict[str, Any] = {
        "allow_http": account.endpoint.lower().startswith("http://"),
        "timeout": timedelta(seconds=10 * timeout_s),  # what only trickles is asked for again, and then given up
        "read_timeout": timedelta(seconds=timeout_s),
        "connect_timeout": timedelta(seconds=min(timeout_s, CONNECT_TIMEOUT_S)),
        "user_agent": f"lora-cli/{__version__}",
    }
    kind: Any = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme]
    how: dict[str, Any] = {"client_options": client, "retry_config": {"max_retries": 0, "retry_timeout": timedelta(0)}}
    how |= {"credential_provider": account.provider, "skip_signature": account.found_in == NOBODY}
    try:
        if account.certificates:
            client["root_certificate"] = Path(account.certificates).read_bytes()
        found: ObjectStore = kind(name, **how, **account.place(name, region))
    except (BaseError, OSError, ValueError) as error:
        hint = f"check {TERMS[scheme][1]}, AWS_CA_BUNDLE and what else obstore reads of the provider's variables"
        raise UsageError(f"{scheme}://{name} cannot be opened ({type(error).__name__})", hint=hint) from error
    return found


def _get(store: "ObjectStore", ref: AdapterRef, file: RemoteFile, start: int, stop: int | None) -> "GetResult":
    """The answer to one request: the range, or all of it from a server that does not know ranges (or ``NoRanges``)."""
    import obstore

    key, etag = f"{_prefix(ref)}{file.path}", file.version.partition("etag:")[2]
    options: GetOptions = {"if_match": f'"{etag}"'} if etag else {}
    span = start, stop or file.size or 0
    if span != (0, file.size):  # some servers answer the range of all of it without being partial
        try:
            return obstore.get(store, key, options={**options, "range": span})
        except obstore.exceptions.GenericError as error:
            if "non-partial response" not in str(error):
                raise
            if stop is not None and start >= FAR:
                raise NoRanges(f"{ref}: {file.path}: its server only sends whole files", hint="fetch it") from error
    return obstore.get(store, key, options=options)


def _prefix(ref: AdapterRef) -> str:
    """The key of the folder, ending in a slash, so that ``adapter_1`` is not ``adapter_10``; "" for a bucket."""
    key = ref.location.partition("/")[2]
    return f"{key}/" if key else ""


def _version(meta: "ObjectMeta") -> str:
    """The ETag (``etag:…``; some servers leave out its quotes), else the time of change (``time:…``)."""
    plain = (meta["e_tag"] or "").removeprefix("W/").strip('"')
    return f"etag:{plain}" if plain else f"time:{meta['last_modified'].isoformat(timespec='seconds')}"
