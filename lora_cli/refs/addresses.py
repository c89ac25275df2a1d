"""The written forms of a reference: the text after a scheme → its location. Nothing is looked up.

``text`` is always the whole reference as the user wrote it, for the message.
"""

import re
from collections.abc import Callable
from urllib.parse import unquote

from lora_cli.errors import UsageError
from lora_cli.redaction import without_passwords, without_tokens
from lora_cli.refs.adapter_files import BASE_CONFIG, CONFIG, WEIGHTS
from lora_cli.refs.web_address import DEFAULT_PORTS, canonical_host, canonical_path, is_loopback, quoted

LONGEST = 4096
HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
HINT = "write ./NAME for a path, or ORG/NAME[@REVISION] for a repository on the Hub"

Parts = tuple[str, str, str | None]
"""Location, subfolder and revision, as ``AdapterRef`` has them."""

COMMIT = re.compile(r"[0-9a-f]{40}", re.IGNORECASE | re.ASCII)
# The Hub's own rule for the parts of a repository id, ASCII only.
_HUB_PART = re.compile(r"\w(?:[\w.-]{0,94}\w)?", re.ASCII)
_NO_MODELS = frozenset({"datasets", "spaces", "buckets", "kernels"})
FOLDERS = frozenset({"model", "models", "ckpt", "ckpts", "checkpoint", "checkpoints", "output", "outputs"})
"""Usual names of folders with models; none is an organisation on the Hub with models."""
# What git refuses in the name of a branch or tag.
_NOT_IN_REVISION = re.compile(r"[\s~^:?*\[\\]|\.\.|//|@\{|^[/-]|[/.]$|\.lock$")
_PAGE_REVISION = re.compile(r"(refs/(?:pr|convert)/[^/]+|[^/]+)(?:/(.*))?")
_PAGE_WITH_FOLDER = frozenset({"tree", "blob", "resolve"})
_PAGES = _PAGE_WITH_FOLDER | {"commit", "commits"}
_NO_DOTS = "write the whole path of the folder"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", re.ASCII)
_AZURE_HOST = re.compile(r"([a-z0-9]{3,24})\.(?:dfs|blob)\.core\.windows\.net", re.IGNORECASE | re.ASCII)
_OCI_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_OCI_NAME = re.compile(rf"{_OCI_PART}(?:/{_OCI_PART})*(?::\w[\w.-]{{0,127}})?", re.ASCII)
DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_FILES = frozenset({CONFIG, WEIGHTS, BASE_CONFIG})
OCI_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_FSSPEC = "options and secrets are fsspec's own: ~/.config/fsspec/conf.json, or FSSPEC_… variables"


def check_characters(text: str) -> None:
    """Refuses what no reference may hold.

    Raises:
        UsageError: it is empty, over 4096 characters long, or holds control characters.
    """
    if not text:
        raise UsageError("the reference is empty", hint=HINT)
    if len(text) > LONGEST:
        raise UsageError(f"{text[:60]!r}…: a reference has at most {LONGEST} characters")
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise UsageError(f"{text[:200]!r} contains control characters", hint="check the quoting")


def check_no_token(text: str, is_path: Callable[[str], bool]) -> None:
    """Refuses a token in what is no path, before it is asked for as if it were a name.

    Raises:
        UsageError: there is one.
    """
    if without_tokens(text) != text and not text.lower().startswith("file:") and not is_path(text):
        hint = "set HF_TOKEN instead, and create a new token: this one is now in the shell's history"
        raise UsageError(f"{without_secrets(text)}: a reference cannot contain a token", hint=hint)


def check_encodable(text: str) -> None:
    """Refuses bytes that are not UTF-8: only paths may hold them.

    Raises:
        UsageError: ``text`` holds such bytes (as surrogates).
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{text!r} is not UTF-8", hint="only paths can contain other bytes") from error


def check_nobody(rest: str, text: str) -> None:
    """Refuses a user and password in front of the host, whatever the scheme, before any part of it is repeated.

    Raises:
        UsageError: there is one.
    """
    user, at, _ = re.split("[/?#]", rest, maxsplit=1)[0].partition("@")
    if at and ":" in user:
        hint = "remove it: credentials are read from the environment"
        raise UsageError(f"{text}: a reference cannot contain a user and password", hint=hint)


def without_secrets(text: str) -> str:
    """``text`` without a user in front of the host, without a query (either may hold a password), without tokens."""
    text = without_passwords(without_tokens(text))
    scheme, _, rest = text.partition("://")
    if not rest:
        return re.sub(r"^[^/@:]+:[^/@]*@", "***@", text) if "@" in text else text
    host, slash, path = rest.partition("?")[0].partition("/")
    user, at, name = host.rpartition("@")
    if scheme.lower() in {"hf", "az", "abfs", "abfss"} and ":" not in user:
        # hf://NAME@REVISION and abfs://CONTAINER@HOST have no user.
        user, name = "", f"{user}{at}{name}"
    return f"{scheme}://{name}{slash}{path}"


def file_url(rest: str, text: str) -> str:
    """``file:///absolute/path``, percent-encoded; the host may be ``localhost``."""
    host, slash, path = rest.partition("/")
    if host.lower() not in {"", "localhost"} or not slash:
        raise UsageError(f"{text}: file:// takes an absolute path", hint="write file:///absolute/path, or ./path")
    decoded = "/" + unquote(path, errors="surrogateescape")
    check_characters(decoded)
    return decoded


def is_hub_page(rest: str, scheme: str) -> bool:
    """Whether the address after ``scheme`` is on the Hub's own site, however its host is written."""
    authority = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    try:
        return scheme in DEFAULT_PORTS and canonical_host(authority, scheme) in HUB_HOSTS
    except ValueError:
        return False


def hub_words(text: str) -> bool:
    """Whether ``text`` without a scheme can be meant for the Hub: ``org/name[@rev]``, ``org/name/folder@rev``."""
    place, at, _ = text.partition("@")
    parts = place.split("/")
    named = len(parts) == 2 or (len(parts) > 2 and bool(at))
    return named and all(_HUB_PART.fullmatch(part) for part in parts[:2])


def is_repository(name: str) -> bool:
    """Whether the name of a base in a config is a repository on the Hub, and not a path."""
    return name.count("/") == 1 and name[0] not in "/.~" and name[-1] != "/" and name.partition("/")[0] not in FOLDERS


def hub(rest: str, text: str) -> Parts:
    """``org/name[/sub/folder][@rev]``. All after the first ``@`` is the revision; ``%40`` is an ``@`` in a folder."""
    place, at, rev = rest.partition("@")
    parts = place.strip("/").split("/")
    if parts[0] in _NO_MODELS:
        raise UsageError(f"{text}: not a model repository", hint="adapters are in model repositories (ORG/NAME)")
    location = _repository("/".join(parts[:2]), text)
    folder = subfolder(unquote("/".join(parts[2:])), text)
    return location, folder, revision(unquote(rev), text) if at else None


def _repository(location: str, text: str) -> str:
    named = all(_HUB_PART.fullmatch(part) for part in location.split("/"))
    if not named or "--" in location or ".." in location or location.endswith(".git"):
        raise UsageError(f"{text}: {location!r} cannot be the name of a repository on the Hub", hint=HINT)
    return location


def check_owner(location: str, folder: str, text: str) -> None:
    """Refuses a folder in a repository without an owner: ``hf://gpt2/folder`` would name another repository.

    Raises:
        UsageError: it is one.
    """
    if folder and "/" not in location:
        raise UsageError(f"{text}: a folder in a repository without an owner is not supported", hint="write OWNER/NAME")


def subfolder(folder: str, text: str) -> str:
    """``folder`` without empty parts and without slashes at its ends.

    Raises:
        UsageError: it leads out of where it is, or no text can hold it.
    """
    parts = [part for part in folder.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise UsageError(f"{text}: a folder must not leave its repository with ..")
    if parts:
        check_characters("/".join(parts))
        check_encodable(folder)
    return "/".join(parts)


def revision(name: str, text: str) -> str:
    """``name`` as a branch, tag or commit; a commit in lower case.

    Raises:
        UsageError: git has no such names.
    """
    if not name or len(name) > 255 or _NOT_IN_REVISION.search(name):
        raise UsageError(f"{text}: {name!r} cannot be a branch, tag or commit", hint="write ORG/NAME@REVISION")
    check_characters(name)
    check_encodable(name)
    return name.lower() if COMMIT.fullmatch(name) else name


def azure(rest: str, text: str) -> str:
    """``container[@account.dfs.core.windows.net][/path]``, the path as it is. ``blob`` is the same host."""
    shown = without_secrets(text)
    if "?" in rest:
        hint = "remove ? and everything after it; a shared access signature is read from AZURE_STORAGE_SAS_TOKEN"
        raise UsageError(f"{shown}: a query is not allowed, because it can contain a secret", hint=hint)
    authority, slash, path = rest.partition("/")
    container, at, host = authority.partition("@")
    account = _AZURE_HOST.fullmatch(host)
    if at and account is None:
        hint = "write CONTAINER@ACCOUNT.dfs.core.windows.net; set AZURE_STORAGE_ENDPOINT for another server"
        raise UsageError(f"{shown}: {host!r} is not an Azure storage account", hint=hint)
    location = bucket(f"{container}{slash}{path}", shown, "container")
    where = f"@{account[1].lower()}.dfs.core.windows.net" if account else ""
    return f"{container}{where}{location.removeprefix(container)}"


def bucket(rest: str, text: str, kind: str = "bucket") -> str:
    """``bucket[/key]``, the key is not changed: object stores do not percent-encode."""
    if re.search(r"\?(versionId|generation)=", rest):
        hint = "only files have versions, folders do not: pin it with its sha256 in a manifest, or with a lock"
        raise UsageError(f"{without_secrets(text)}: a version of one object is not an adapter", hint=hint)
    name, _, key = rest.partition("/")
    key = key.rstrip("/")
    if not _BUCKET.fullmatch(name):
        hint = "a name has at least 3 characters: lower-case letters, digits, dots and hyphens"
        raise UsageError(f"{text}: {name!r} cannot be the name of a {kind}", hint=hint)
    _check_key(key, text)
    return f"{name}/{key}" if key else name


def _check_key(key: str, text: str) -> None:
    if {".", ".."} & set(key.split("/")):
        raise UsageError(f"{text}: a key must not contain . or .. as a segment", hint=_NO_DOTS)
    if key.startswith("/") or "//" in key:
        raise UsageError(f"{text}: a key must not contain an empty segment", hint="use a single /")


def plain_web(rest: str, text: str) -> str:
    """As ``web``, for ``http://``: only this machine is read without encryption."""
    location = web(rest, text, "http")
    if not is_loopback(location.partition("/")[0]):
        hint = "use https://; for your own server without TLS set endpoint_url in [[sources]] of the settings file"
        raise UsageError(f"{text}: http:// is only allowed for this machine", hint=hint)
    return location


def web(rest: str, text: str, scheme: str = "https") -> str:
    """``host/path`` of any other server, in its canonical form, without fragment; a query is refused.

    The address of an adapter's config or weights is that of their folder.
    """
    address, question, _ = rest.partition("#")[0].partition("?")
    authority, _, path = address.partition("/")
    if question:
        raise UsageError(
            f"{text}: a query is not allowed, because it can contain a secret", hint="remove ? and everything after it"
        )
    try:
        host, folder = canonical_host(authority, scheme), canonical_path(path)
    except ValueError as error:
        raise UsageError(f"{text}: {error}", hint=f"write {scheme}://HOST/PATH, without a user") from error
    above, _, last = folder.rpartition("/")
    return f"{host}/{above if last in _FILES else folder}".rstrip("/")


def web_folder(folder: str) -> str:
    """A plain ``folder`` as part of an address.

    Raises:
        UsageError: no address can hold it.
    """
    try:
        return canonical_path(quoted(folder))
    except ValueError as error:
        raise UsageError(f"folder {folder}: {error}", hint="use a folder below the address") from error


def remote(rest: str, text: str) -> str:
    """``[user@]host[:port]/path`` of a file system on another machine, the path is not percent-encoded."""
    authority, _, path = rest.partition("/")
    shown = without_secrets(text)
    if not authority or ":" in authority.rpartition("@")[0]:
        raise UsageError(f"{shown}: write SCHEME://[USER@]HOST/PATH, without a password", hint=_FSSPEC)
    if "?" in rest or "::" in rest:
        raise UsageError(f"{shown}: queries and chained protocols are not supported", hint=_FSSPEC)
    if {".", ".."} & set(path.split("/")):
        raise UsageError(f"{shown}: a path must not contain . or .. as a segment", hint=_NO_DOTS)
    return rest.rstrip("/")


def hub_page(rest: str, text: str) -> Parts:
    """A page of the Hub's site: ``org/name``, ``…/tree/rev/folder``, ``…/blob/rev/folder/file``, ``…/commit/rev``."""
    address, shown = re.split("[?#]", rest, maxsplit=1)[0], without_secrets(text)
    authority, _, path = address.partition("/")
    if "@" in authority:
        raise UsageError(f"{shown}: an address cannot contain a user", hint="set HF_TOKEN instead")
    parts = [part for part in path.split("/") if part]
    length = 1 if len(parts) < 2 or parts[1] in _PAGES else 2
    if not parts or parts[0] in _NO_MODELS | {"api"}:
        raise UsageError(f"{shown}: not the page of a model repository", hint=HINT)
    location = _repository("/".join(parts[:length]).removesuffix(".git"), shown)
    if len(parts) == length:
        return location, "", None
    kind, match = parts[length], _PAGE_REVISION.fullmatch("/".join(parts[length + 1 :]))
    if kind not in _PAGES or match is None:
        raise UsageError(
            f"{shown}: this page does not list the files of a repository", hint="use the address of its file list"
        )
    folder = unquote(match.group(2) or "") if kind in _PAGE_WITH_FOLDER else ""
    folder = subfolder(folder if kind == "tree" else folder.rpartition("/")[0], shown)
    check_owner(location, folder, shown)
    return location, folder, revision(unquote(match.group(1)), shown)


def oci(rest: str, text: str) -> Parts:
    """``registry/name[:tag][//folder][@sha256:digest]``; after a tag or a digest, one slash begins a folder too."""
    shown, hint = without_secrets(text), "write oci://REGISTRY/NAME[:TAG][@sha256:…][//FOLDER], the name in lower case"
    place, at, tail = rest.partition("@")
    sha256, _, folder = tail.partition("/")
    authority, _, name = place.partition("/")
    name, twice, before = name.partition("//")
    if not twice and (tagged := re.fullmatch(r"([^:]*:[^/]*)/(.*)", name)):
        name, before = tagged[1], tagged[2]
    try:
        host = canonical_host(authority, "http" if is_loopback(authority.lower()) else "https")
    except ValueError:
        host = ""
    name = name.rstrip("/")
    if not host or not _OCI_NAME.fullmatch(name) or (folder and before):
        raise UsageError(f"{shown}: this is not an OCI reference", hint=hint)
    if host in DOCKER_HUB:
        host, name = "docker.io", name if "/" in name else f"library/{name}"
    return f"{host}/{name}", subfolder(unquote(folder or before), shown), digest(sha256, text) if at else None


def digest(sha256: str, text: str) -> str:
    """``sha256`` as OCI writes a digest.

    Raises:
        UsageError: it is not one.
    """
    if not OCI_DIGEST.fullmatch(sha256):
        raise UsageError(f"{text}: {sha256!r} is not a digest", hint="write sha256: and 64 lower-case hex digits")
    return sha256
