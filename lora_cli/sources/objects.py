"""``s3://``, ``gs://`` and ``az://``: buckets over obstore. A prefix is a folder, and its ETags pin what is read."""

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_cli import __version__, errors
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import AccessDenied, Changed, LoraCliError, NotFound, UsageError
from lora_cli.settings import Settings
from lora_cli.sources import NoRanges, Source, at_most_10_000
from lora_cli.sources.cloud_credentials import NOBODY, Account, azure_account, find_account
from lora_cli.sources.http import FAR
from lora_cli.sources.retries import CONNECT_TIMEOUT_S, Transient, from_status, printable

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import ObjectStore

    from lora_cli.documents.source_rules import SourceRule

SMALL = 1 << 20
"""What has no more bytes is taken as it comes: a stream that breaks off loses none."""

_ROLE = "storage.objects.list and storage.objects.get on {name}: the role Storage Object Viewer"
_LOGIN = "run `az login`, or check AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"
TERMS = {
    "s3": ("AWS", "AWS_ENDPOINT_URL", "try `aws sts get-caller-identity`", "s3:ListBucket and s3:GetObject on {name}"),
    "gs": ("GOOGLE", "STORAGE_EMULATOR_HOST", "run `gcloud auth application-default login`", _ROLE),
    "az": ("AZURE", "AZURE_STORAGE_ENDPOINT", _LOGIN, "the role Storage Blob Data Reader on {name}"),
}
"""How the variables of each kind of store begin, which names its server, what to try, and which rights are needed."""

_AGAIN = "run the command again"
_NO_BUCKET = "check the spelling, and the endpoint ({endpoint})"
_SECRET = "check AWS_SECRET_ACCESS_KEY, or the profile's"  # noqa: S105 - its name
_ACCOUNT = "check which account and endpoint it is for"
_RENEW = "renew it: `aws sso login`, or new keys"
_WRONG = "{server} does not accept the credentials from {user}"
_REFUSED = "{server} denies access without credentials{detail}"
_FORBIDDEN = "{server} denies access with the credentials from {user}{detail}"
_UNUSABLE = "{server} was not asked: the credentials from {user} cannot be used"
_PRIVATE = "it is not public: set credentials (at a server of [[sources]] {own}), and unset {prefix}_SKIP_SIGNATURE"
_MOVED = r"redirect without LOCATION|^\w+ 30[1278]|AuthorizationHeaderMalformed|Redirect"
_ANSWERS: tuple[tuple[str, type[LoraCliError], str, str], ...] = (
    ("NoSuchBucket|ContainerNotFound", NotFound, "there is no bucket {name} at {server}", _NO_BUCKET),
    (_MOVED, NotFound, "the bucket {name} is in another region", "set AWS_REGION={region}"),
    ("TimeTooSkewed", errors.MachineError, "the clock of this machine differs from that of {server}", "set it"),
    ("InvalidAccessKeyId", AccessDenied, "{server} does not recognise the access key from {user}", _ACCOUNT),
    ("SignatureDoesNotMatch", AccessDenied, "{server} does not accept the secret of the key from {user}", _SECRET),
    ("(Expired|Invalid)Token|TokenRef", AccessDenied, "{server} no longer accepts the session from {user}", _RENEW),
    ("InvalidAuth|Authentication(Required|Failed)", AccessDenied, _WRONG, "{login}; they may have expired"),
    ("credential provider", AccessDenied, _UNUSABLE, "{login}"),
    ("(40[13]|Denied|NotPermitted).* nobody", AccessDenied, _REFUSED, _PRIVATE),
    ("40[13]|Denied|NotPermitted", AccessDenied, _FORBIDDEN, "it needs {rights}"),
    ("read 412", Changed, "it was overwritten after it was listed", _AGAIN),
    ("read 404", Changed, "it was removed after it was listed", _AGAIN),
    ("read 416", Changed, "it is shorter than its listed size", _AGAIN),
    ("invalid path", errors.Refused, "a key below it is not a valid file path", "its owner must rename it"),
    (" 404", NotFound, "not found on {server} ({answer})", _NO_BUCKET),
    ("", errors.Unreachable, "{server} answered {answer}", "check the endpoint ({endpoint}), or try again later"),
)
"""What is in "list" or "read", status, code and "nobody"; what is raised, what it says, and what to try."""

_CHECK = "check the network, HTTPS_PROXY and the endpoint ({endpoint})"
_TRUST = "set SSL_CERT_FILE to the certificates to trust (for s3:// also AWS_CA_BUNDLE)"
_UNKNOWN = "Name or service not known|No address associated with hostname|nodename nor servname"
_CUT = "IncompleteMessage|UnexpectedEof|ConnectionReset|BrokenPipe|kind: Decode|kind: Body|kind: Interrupted"
_NO_ANSWER = (
    ("invalid peer certificate|InvalidCertificate", "the certificate of {server} is not trusted", _TRUST),
    (_UNKNOWN, "no connection to {server}: the name of the host is not known", _CHECK),
    ("ConnectionRefused", "no connection to {server}: it was refused", _CHECK),
    ("TimedOut|timed out|kind: Timeout", "{server} sent no data for {timeout_s:g} s", _CHECK),
    ("kind: Connect|dns error", "no connection to {server}", _CHECK),
    (_CUT, "the connection to {server} was cut", _CHECK),
    ("invalid XML|got invalid list|DeError|list response", "{server} sent no listing", _CHECK),
    ("", "communication with {server} failed: {summary}", _CHECK),
)
"""What is in obstore's chain of causes, what that means and what to try; of the first two no other try would help."""

_STATUS = re.compile(r"Server returned (?:non-2xx status code|error response): (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>|(credential provider|redirect without LOCATION|invalid path)")
_NO_TOKENS = re.compile(
    r"credential provider: (?:\w*(?:Transport|ServiceRe\w+|Connect\w*|Timeout)|Refresh(?=.*Caused by ))Error: "
)
_processes: set[int] = set()  # where obstore's threads run: they do not follow into a fork, which would wait for ever


class ObjectSource(Source):
    """Buckets as a source. A revision is a fingerprint of paths, sizes and ETags, else times of change."""

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and looks for no credentials yet; ``rule`` says whose are used, and where."""
        super().__init__(settings, rule)
        self._accounts: dict[str, Account] = {}
        self._buckets: dict[str, tuple[ObjectStore, Account, str]] = {}
        self._reported: dict[tuple[str, str, str], str] = {}
        self._piece = 1 << 18
        self._lock = threading.Lock()

    def _resolve(self, ref: AdapterRef) -> Revision:
        """The objects below the prefix that ``ref`` names, at most 10 000, at this moment; raises as ``Source``."""
        ask = partial(_list, ref=ref, until=time.monotonic() + self._settings.adapter_timeout_s)
        found = self._ask(ref, "list", "", ask)
        prefix, files = _prefix(ref), list[RemoteFile]()
        # Empty objects that stand for a folder are no files.
        folders = {prefix.rstrip("/"), *(key[: slash.start()] for key in found for slash in re.finditer("/", key))}
        for key, (size, version) in sorted(found.items()):
            if size or key.rstrip("/") not in folders:
                files.append(RemoteFile(key.removeprefix(prefix), size, version=version))
        if not files:
            check = f"check the spelling, and the endpoint ({TERMS[ref.scheme][1]})"
            hint = f"{check}: write the whole folder of the adapter, no file and no revision"
            raise NotFound(f"{ref}: there is nothing below {prefix or 'it'}", hint=hint)
        lines = "".join(f"{file.size} {file.version} {file.path}\n" for file in files)
        return Revision(ref, hashlib.sha256(lines.encode()).hexdigest(), tuple(files))

    def reported_digests(self, revision: Revision, file: RemoteFile) -> Mapping[str, str]:
        """The sha256 in the object's metadata, once it was read: ``metadata sha256`` → hexadecimal digits."""
        found = self._reported.get((revision.ref.location, file.path, file.version), "")
        return {"metadata sha256": found} if re.fullmatch(r"[0-9a-f]{64}", found) else {}

    def _stream(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        ref, end, rest = revision.ref, stop or file.size or 0, stop is None
        answer: GetResult = self._ask(
            ref, "read", file.path, lambda store: _get(store, ref, file, (start, end), rest=rest)
        )
        if (answer.meta["size"], _version(answer.meta)) != (file.size, file.version):
            raise Changed(f"{ref}: {file.path}: it was overwritten after it was listed", hint=_AGAIN)
        self._reported[ref.location, file.path, file.version] = str(answer.attributes.get("sha256", "")).lower()
        skip, left = start - answer.range[0], end - start
        try:
            for piece in answer.stream(min_chunk_size=self._piece if left > SMALL else 1):
                wanted = bytes(memoryview(piece)[skip : skip + left])
                skip, left = max(0, skip - len(piece)), left - len(wanted)
                if wanted:
                    yield wanted
                if not left:
                    return
        except Exception as error:
            self._piece = 1  # as they come, so that no byte of a stream that breaks again is lost
            raise self._translated(error, ref, "read", file.path) from error

    def _ask(self, ref: AdapterRef, verb: str, path: str, ask: "Callable[[ObjectStore], Any]") -> Any:
        """What ``ask`` gives; a bucket that is in another region is asked there from then on."""
        store, account, region = self._bucket(ref)
        try:
            return ask(store)
        except LoraCliError:
            raise
        except Exception as error:
            if ref.scheme == "s3" and not region and (region := self._region(error, ref, account)):
                self._bucket(ref, region)
                return self._ask(ref, verb, path, ask)
            raise self._translated(error, ref, verb, path) from error

    def _bucket(self, ref: AdapterRef, region: str = "") -> "tuple[ObjectStore, Account, str]":
        """The bucket of ``ref``, whose it is, and the region that was found for it ("": the account's); opened once."""
        if _processes and os.getpid() not in _processes:
            raise errors.MachineError(f"{ref}: a forked process cannot read it", hint="start a new process")
        name = ref.location.partition("/")[0]
        with self._lock:
            if name not in self._buckets or region:
                of = azure_account(ref.location) if ref.scheme == "az" else ""
                if of not in self._accounts:
                    self._accounts[of] = find_account(ref.scheme, ref.location, self._rule)
                store = _open(ref.scheme, name.partition("@")[0], self._accounts[of], self._settings.timeout_s, region)
                self._buckets[name] = store, self._accounts[of], region
                _processes.add(os.getpid())
            return self._buckets[name]

    def _region(self, error: Exception, ref: AdapterRef, account: Account) -> str:
        """Where a bucket of S3 is, if it is in another region: the answer has it, else one HEAD; "" if not known."""
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        if not re.search(_MOVED, "list {} {}".format(*_answer(error))):
            return ""
        found = re.search("<Region>([a-z0-9-]+)</Region>", str(error))
        if not found:
            bucket = ref.location.partition("/")[0]
            place = account.place(bucket, "")
            url = place["endpoint"] if place["virtual_hosted_style_request"] else f"{place['endpoint']}/{bucket}"
            trusted = account.certificates or os.environ.get("SSL_CERT_FILE") or True
            session = URLLib3Session(trusted, get_environ_proxies(url), self._settings.timeout_s)
            with suppress(BotoCoreError):
                said = session.send(AWSRequest("HEAD", url).prepare()).headers
                found = re.fullmatch("([a-z0-9-]+)", said.get("x-amz-bucket-region", ""))
        return found[1] if found else ""

    def _translated(self, error: Exception, ref: AdapterRef, verb: str, path: str) -> LoraCliError | Transient:
        """An error of obstore in our words; only few of its own, which may hold a signed address, are shown."""
        (_, account, region), text = self._bucket(ref), str(error).partition("\n\nDebug source:")[0]
        status, code = _answer(error)
        message = printable(re.sub(r"\w{20,}", "***", "".join(re.findall(r"<Message>([^<\n]{1,2000})", text)[:1])))
        words: dict[str, Any] = {
            **{"server": account.server, "user": account.found_in, "summary": printable(text.rpartition(" - ")[2])},
            **{"detail": f": {message}" if message else "", "answer": f"{status} {code} {message}".strip()},
            **{"name": re.split("[@/]", ref.location)[0], "region": region or "REGION, the region of the bucket"},
            **dict(zip(("prefix", "endpoint", "login", "rights"), TERMS[ref.scheme], strict=True)),
            **{"timeout_s": self._settings.timeout_s, "own": "those of profile" if ref.scheme == "s3" else "token_env"},
        }
        if not status and not code:
            row = next(row for row in _NO_ANSWER if re.search(row[0], str(error)))
            return Transient(row[1].format(**words), hint=row[2].format(**words), final=row in _NO_ANSWER[:2])
        if code == "credential provider" and _NO_TOKENS.search(text):
            reason = f"no connection to the service that renews the credentials from {account.found_in}"
            return Transient(reason, hint="check the network and HTTPS_PROXY, or try again later")
        if status in {"408", "429"} or status >= "500":
            return from_status(account.server, int(status), {})  # obstore does not show its Retry-After
        answer = f"{verb} {status} {code} {'' if account.found_in != NOBODY else NOBODY}"
        rows = (row for row in _ANSWERS if ref.scheme == "s3" or row[0] is not _MOVED)
        _, kind, says, hint = next(row for row in rows if re.search(row[0], answer))
        return kind(f"{ref}{path and f': {path}'}: {says.format(**words)}", hint=hint.format(**words).format(**words))


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


def _list(store: "ObjectStore", ref: AdapterRef, until: float) -> dict[str, tuple[int, str]]:
    """All objects below ``ref``: key → size and version."""
    import obstore

    def listed() -> "Iterator[ObjectMeta]":
        for page in obstore.list(store, _prefix(ref) or None, chunk_size=100):
            yield from page
            if time.monotonic() > until:
                raise errors.Unreachable(f"{ref}: its listing does not end", hint="use the folder of one adapter")

    return {one["path"]: (one["size"], _version(one)) for one in at_most_10_000(listed(), str(ref))}


def _get(store: "ObjectStore", ref: AdapterRef, file: RemoteFile, span: tuple[int, int], *, rest: bool) -> "GetResult":
    """The answer to one request: the range, or all of it from a server that does not know ranges (or ``NoRanges``)."""
    import obstore

    key, etag = f"{_prefix(ref)}{file.path}", file.version.partition("etag:")[2]
    options: GetOptions = {"if_match": f'"{etag}"'} if etag else {}
    if span != (0, file.size):  # some servers answer the range of all of it without being partial
        try:
            return obstore.get(store, key, options={**options, "range": span})
        except obstore.exceptions.GenericError as error:
            if "non-partial response" not in str(error):
                raise
            if not rest and span[0] >= FAR:
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


def _answer(error: Exception) -> tuple[str, str]:
    """Status and code of the server's answer, as far as obstore reports them."""
    text = str(error).partition("\n\nDebug source:")[0]
    status, code = _STATUS.search(text), _CODE.search(text)
    return status[1] if status else "", (code[1] or code[2]) if code else ""
