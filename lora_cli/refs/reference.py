"""``AdapterRef``: a reference to an adapter in one canonical form, however a user wrote it."""

import os
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import translate
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, unquote_to_bytes

from lora_cli.errors import UsageError
from lora_cli.redaction import without_secrets, without_tokens
from lora_cli.refs.adapter_files import BASE_CONFIG, CONFIG, WEIGHTS
from lora_cli.refs.web_address import DEFAULT_PORTS, PLAIN, canonical_host, canonical_path, is_loopback

Scheme = Literal["file", "hf", "s3", "gs", "az", "https", "http", "oci", "fsspec"]

FSSPEC: Literal["fsspec"] = "fsspec"
BY_FSSPEC = frozenset({
    *("s3", "gcs", "gs", "abfs", "az", "adl", "box", "dropbox", "gdrive", "oci", "tosfs", "webdav"),
    *("dbfs", "hdfs", "lakefs", "oss", "sftp", "smb", "ssh", "tos"),
})  # fmt: skip
"""The protocols of ``fsspec+PROTOCOL://``. What reads this machine, an archive, an address of the web or another file
system through a cache is not among them, and neither is what cannot read a range (FTP)."""

ALIASES: Mapping[str, Scheme] = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
WITH_REVISIONS: Mapping[str, str] = {"hf": "[0-9a-f]{40}", "oci": "sha256:[0-9a-f]{64}"}
"""The schemes whose references may name a folder, and a revision behind an ``@``; which revisions never change."""

HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
LONGEST = 4096

LATEST_FOLDER = "checkpoint-latest"
"""The last folder in the text of a reference to the latest checkpoint of a training run."""

_HINT = "write ./NAME for a path, or ORG/NAME[@REVISION] for a repository on the Hub"
_CONTROL = r"[\x00-\x1f\x7f]"


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """A reference to one adapter.

    ``location`` is by ``scheme``: an absolute path (``file``), ``org/name`` (``hf``), ``bucket/key`` (``s3``, ``gs``),
    ``container[@account.dfs.core.windows.net]/path`` (``az``), ``host/path`` as in the URL (``https`` and ``http``),
    ``registry/name[:tag]`` (``oci``), the URL without ``fsspec+`` (``fsspec``). ``subfolder`` (POSIX, relative) is only
    for ``hf`` and ``oci``: elsewhere a folder is part of the location. ``revision`` is a branch, tag or commit for
    ``hf`` and a digest for ``oci``; None is the origin's default. ``str()`` is canonical: ``parse(str(ref)) == ref``.
    """

    scheme: Scheme
    location: str
    subfolder: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        if self.scheme == "file":
            return "file://" + quote(self.location, errors="surrogateescape")
        text = f"fsspec+{self.location}" if self.scheme == FSSPEC else f"{self.scheme}://{self.location}"
        if self.subfolder:
            text += ("//" if self.scheme == "oci" else "/") + self.subfolder.replace("%", "%25").replace("@", "%40")
        return text if self.revision is None else f"{text}@{self.revision.replace('%', '%25')}"

    @property
    def pinned(self) -> bool:
        """Whether it can only ever mean one thing: a Hub commit or an OCI digest."""
        return self.revision is not None and bool(re.fullmatch(WITH_REVISIONS[self.scheme], self.revision))

    @property
    def untagged(self) -> str:
        """The location without the tag of an artifact."""
        return re.sub(":[^/:]*$", "", self.location) if self.scheme == "oci" else self.location

    @property
    def in_records(self) -> str:
        """The reference as the cache records it: a tag beside a digest, which says nothing, is left out."""
        return str(self if self.revision is None else replace(self, location=self.untagged))

    @property
    def name(self) -> str:
        """A short name for people: the last part of the subfolder or location, without a tag."""
        return (self.subfolder or self.untagged).rpartition("/")[2] or self.location


def cached_repository(path: str) -> tuple[str, str] | None:
    """The repository (``org/name``) and commit of a snapshot in huggingface_hub's cache; None of any other path."""
    found = re.search(r"(?:^|[/\\])models--([^/\\]+)[/\\]snapshots[/\\]([0-9a-f]{40})(?:[/\\]|$)", path)
    return (found[1].replace("--", "/", 1), found[2]) if found else None


def repository_of(ref: AdapterRef) -> str:
    """The Hub's name of a repository (``org/name``), also of a folder in huggingface_hub's cache; "" of any other."""
    cached = cached_repository(ref.location) if ref.scheme == "file" else None
    return cached[0] if cached is not None else ref.location if ref.scheme == "hf" else ""


def hub_words(text: str) -> bool:
    """Whether ``text`` without a scheme can be meant for the Hub: ``org/name[@rev]``, ``org/name/folder@rev``."""
    return bool(re.fullmatch(rf"{_PART}/{_PART}(?:@.*|/[^@]*@.*)?", text, re.ASCII | re.DOTALL))


def is_path(text: str, base_dir: Path | None = None) -> bool:
    """Whether ``text`` is a path, and not ORG/NAME of the Hub, seen from ``base_dir`` (None: the working directory).

    It is one if it exists (a dangling link does, too), and if the folder exists that it would be in: a folder that was
    removed or misspelt is not looked for on the Hub, where somebody else may have a repository of that name.
    """
    if "\0" in text:
        return False
    path = (base_dir or Path()) / text
    in_folder = text.count("/") == 1 and "@" not in text and os.path.isdir(path.parent)  # noqa: PTH112 - never raises
    return os.path.lexists(path) or in_folder


def training_run(text: str) -> str:
    """The reference to the training run of whose latest checkpoint ``text`` speaks; "" if it speaks of none."""
    found = re.fullmatch(rf"(.+?)/+{LATEST_FOLDER}/?(@.*)?", text, re.DOTALL)
    return f"{found[1]}{found[2] or ''}" if found else ""


def parse(text: str, *, is_path: Callable[[str], bool], base_dir: Path | None = None) -> AdapterRef:
    """The reference that ``text`` is, in any of the ways that users write one.

    A scheme decides (``SCHEMES``; a page of ``https://huggingface.co`` is ``hf://``). Without one, ``/``, ``./``,
    ``../`` and ``~`` begin a path; what ``is_path`` says exists is a path; ``org/name[@rev]`` and
    ``org/name/sub/folder@rev`` are on the Hub; other words with two or more slashes are a path that does not exist.
    Relative paths are relative to ``base_dir`` (None: the working directory).

    Raises:
        UsageError: it is none of these.
    """
    shown = without_secrets(text[:LONGEST])
    if not text or len(text) > LONGEST or re.search(_CONTROL, text):
        raise UsageError(f"{shown[:200]!r}: empty, over {LONGEST} characters, or with control characters", hint=_HINT)
    found = re.match("([A-Za-z][A-Za-z0-9+.-]*)://", text)
    scheme, rest = (found[1].lower(), text[found.end() :]) if found else ("", text)
    if scheme.startswith("fsspec+"):
        scheme, rest = FSSPEC, f"{scheme.removeprefix('fsspec+')}://{rest}"
    if scheme != "file" and without_tokens(text) != text and not is_path(text):
        hint = "set HF_TOKEN instead, and create a new token: this one is now in the shell's history"
        raise UsageError(f"{shown}: a reference cannot contain a token", hint=hint)
    if not scheme:
        if text in {".", ".."} or text.startswith(("/", "./", "../")) or is_path(text):
            return _path(text, base_dir)
        if text.partition("/")[0].lower() in HUB_HOSTS:
            scheme = "https"
        elif hub_words(text):
            scheme = "hf"
        elif text[0] == "~" or text.strip("/").count("/") > 1:
            return _path(os.path.expanduser(text), base_dir)  # noqa: PTH111 - it never raises
        else:
            raise UsageError(f"{shown!r} is neither an existing path nor a repository on the Hub", hint=_HINT)
    known = SCHEMES.get(ALIASES.get(scheme, scheme))
    if known is None:
        known_as = f"fsspec+{scheme}" if scheme in BY_FSSPEC else ", ".join(SCHEMES)
        raise UsageError(f"{shown}: unsupported scheme {scheme}://", hint=f"write {known_as}")
    form, pattern, make = known
    not_text = _CONTROL if scheme == "file" else f"{_CONTROL}|[\ud800-\udfff]"
    found = None if re.search(not_text, unquote(rest)) else re.fullmatch(pattern, rest, re.ASCII)
    try:
        if found is not None:
            return make(*found.groups(""))
        reason = f"this is not a reference of {scheme}://"
    except ValueError as error:
        reason = str(error)
    raise UsageError(f"{shown}: {reason}", hint=f"write {form}, without a password")


def below(ref: AdapterRef, subfolder: str) -> AdapterRef:
    """``ref`` at a folder inside it; itself for an empty one.

    Raises:
        UsageError: the folder leads out of it, or no reference can name it.
    """
    parts = [part for part in subfolder.split("/") if part not in {"", "."}]
    if ".." in parts or (parts and ref.scheme == "hf" and "/" not in ref.location):
        raise UsageError(f"{ref}: {subfolder} is not a folder in it", hint="write ORG/NAME/FOLDER, without ..")
    if ref.scheme in WITH_REVISIONS:
        inside = replace(ref, subfolder="/".join([ref.subfolder, *parts]).lstrip("/"))
    else:
        added = map(quote, parts) if ref.scheme in {"https", "http"} else parts
        inside = replace(ref, location="/".join([ref.location.rstrip("/"), *added]))
    return parse(str(inside), is_path=lambda _: False) if parts else ref


def _path(text: str, base_dir: Path | None = None) -> AdapterRef:
    """Made absolute without following links: ``..`` stays, because behind a link it means something else."""
    path = (base_dir or Path()).absolute() / text
    return AdapterRef("file", "/" + str(path).lstrip("/"))


def _file(path: str) -> AdapterRef:
    return _path("/" + unquote(path, errors="surrogateescape"))


def _folder(text: str) -> str:
    """An encoded folder without empty parts and without slashes at its ends."""
    parts = [part for part in unquote(text).split("/") if part not in {"", "."}]
    if ".." in parts:
        raise ValueError("a folder must not leave its repository with ..")
    return "/".join(parts)


def _hub(location: str, folder: str, at: str) -> AdapterRef:
    folder, revision = _folder(folder), unquote(at[1:])
    if folder and "/" not in location:  # hf://gpt2/folder would name another repository
        raise ValueError("a folder in a repository without an owner is not supported")
    if at and not re.fullmatch(_REVISION, revision):
        raise ValueError(f"{revision!r} cannot be a branch, tag or commit")
    return AdapterRef("hf", location.removesuffix(".git"), folder, revision or None)


def _web(scheme: Scheme, authority: str, path: str, query: str) -> AdapterRef:
    """A page of the Hub is the repository, revision and folder that it shows; a config or weights are their folder."""
    host = canonical_host(authority, scheme)
    if host in HUB_HOSTS:
        found = re.fullmatch(_PAGE, "/".join(part for part in path.split("/") if part), re.ASCII)
        if found is None:
            raise ValueError("this page does not list the files of a model repository")
        location, tree, file, revision, rest = found.groups("")
        inside = rest if tree else rest.rpartition("/")[0] if file else ""
        return _hub(location, inside, f"@{revision}" if revision else "")
    if query:
        raise ValueError("a query is not allowed, because it can contain a secret")
    if scheme == "http" and not is_loopback(host):
        raise ValueError("http:// is only allowed for this machine")
    folder = canonical_path(path)
    above, _, last = folder.rpartition("/")
    return AdapterRef(scheme, f"{host}/{above if last in {CONFIG, WEIGHTS, BASE_CONFIG} else folder}".rstrip("/"))


def _azure(container: str, host: str, path: str) -> AdapterRef:
    return AdapterRef("az", container + host.lower().replace(".blob.", ".dfs.") + path)


def _oci(authority: str, name: str, tag: str, before: str, digest: str, behind: str) -> AdapterRef:
    host = canonical_host(authority, "http" if is_loopback(authority) else "https")
    if host in DOCKER_HUB:
        host, name = "docker.io", name if "/" in name else f"library/{name}"
    return AdapterRef("oci", f"{host}/{name}{tag}", _folder(before or behind), digest or None)


# The Hub's own rule for the parts of a repository id, and what git takes as the name of a branch or tag.
_PART = r"(?![^/@]*(?:--|\.\.))\w(?:[\w.-]{0,94}\w)?"
_REVISION = r"(?![/-])(?!.*(?:\.\.|//|@\{|[/.]$|\.lock$))[^\s~^:?*\[\\]{1,255}"
_NO_MODELS = "(?!(?:datasets|spaces|buckets|kernels|api)(?:[/@]|$))"
_PAGE = (
    rf"{_NO_MODELS}({_PART}(?:/(?!(?:tree|blob|resolve|commits?)(?:/|$)){_PART})?)"
    r"(?:/(?:(tree)|(blob|resolve)|commits?)/(refs/(?:pr|convert)/[^/]+|[^/]+)(?:/(.*))?)?"
)
_BUCKET, _KEY = r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", r"(?:/(?!\.\.?(?:/|$))[^/]+)*"
_NO_QUERY = r"(?!.*[?&](?i:versionId|generation|x-amz-|x-goog-))"
_AZURE = rf"(?!.*\?)({_BUCKET})((?i:@[a-z0-9]{{3,24}}\.(?:dfs|blob)\.core\.windows\.net))?({_KEY})/*"
_URL = r"([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?"
_OCI_PART = "[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*"
_OCI_NAME = rf"({_OCI_PART}(?:/{_OCI_PART})*)(:\w[\w.-]{{0,127}})?"
_OCI = rf"([^/@]+)/{_OCI_NAME}(?:(?(3)/|//)([^@]*)|/?)(?:@({WITH_REVISIONS['oci']})(?(4)|(?:/(.*))?))?"
_PROTOCOLS = "|".join(sorted(BY_FSSPEC))
_FSSPEC = rf"(?!.*(?:\?|::))((?:{_PROTOCOLS})://(?:[^/@:]*@)?[^/@]+(?:/(?!\.\.?(?:/|$))[^/]*)*)"

SCHEMES: Mapping[str, tuple[str, str, Callable[..., AdapterRef]]] = {
    "file": ("file:///absolute/path, or ./path", "(?i:localhost)?/(.*)", _file),
    "hf": ("hf://ORG/NAME[/FOLDER][@REVISION]", rf"/*{_NO_MODELS}({_PART}(?:/{_PART})?)(?:/([^@]*))?(@.*)?", _hub),
    "s3": ("s3://BUCKET/KEY", rf"{_NO_QUERY}({_BUCKET}{_KEY})/*", partial(AdapterRef, "s3")),
    "gs": ("gs://BUCKET/KEY", rf"{_NO_QUERY}({_BUCKET}{_KEY})/*", partial(AdapterRef, "gs")),
    "az": ("az://CONTAINER[@ACCOUNT.dfs.core.windows.net]/PATH; AZURE_STORAGE_SAS_TOKEN signs", _AZURE, _azure),
    "https": ("https://HOST/PATH, without user and query", _URL, partial(_web, "https")),
    "http": ("https://HOST/PATH, or endpoint_url in [[sources]] of the settings file", _URL, partial(_web, "http")),
    "oci": ("oci://REGISTRY/NAME[:TAG][@sha256:…][//FOLDER], the name in lower case", _OCI, _oci),
    FSSPEC: (f"fsspec+({_PROTOCOLS})://[USER@]HOST/PATH", _FSSPEC, lambda url: AdapterRef(FSSPEC, url.rstrip("/"))),
}
"""For each scheme how a reference is written, the pattern of what is behind ``://``, and what its groups make."""


def ref_of(source: str | AdapterRef) -> AdapterRef:
    """The reference that ``source`` is, or that its text means in the working directory.

    Raises:
        UsageError: the text is not a reference.
    """
    return parse(source, is_path=is_path) if isinstance(source, str) else source


def source_glob(glob: str, base_dir: Path) -> str:
    """A glob over canonical references: ``./x`` is a file, ``org/*`` is ``hf://``; raises ``ValueError`` for a user."""
    word, mark, rest = glob.partition("://")
    if not mark:
        if glob.startswith(("./", "../", "/")) or glob in {".", ".."}:
            return "file://" + posixpath.normpath(posixpath.join(base_dir.absolute(), glob))
        return glob if glob.startswith("*") or "+" in glob else "hf://" + glob
    scheme = ALIASES.get(word.lower(), word.lower())
    host, slash, path = rest.removeprefix("localhost" if scheme == "file" else "").partition("/")
    if scheme == "az":
        host = host.lower().replace(".blob.core.windows.net", ".dfs.core.windows.net")
    if scheme not in {"https", "http", "oci"}:
        return _of_any_user(f"{scheme}://{host}{slash}{path}")
    if "@" in host:
        raise ValueError("this is not a host address or a glob for one, without user and query")
    host = host.lower().replace("[[]", "[")
    port = DEFAULT_PORTS["http" if scheme == "http" or (scheme == "oci" and is_loopback(host)) else "https"]
    host = host.removesuffix(f":{port}").removesuffix(".")
    if scheme == "oci":
        host, path = "docker.io" if host in DOCKER_HUB else host, re.sub("(:[^:/@]*)/(?!/)", r"\1//", path, count=1)
    elif slash and host in HUB_HOSTS:
        return f"hf://{path}"
    else:
        path = quote(unquote_to_bytes(path), safe=PLAIN + "[?];")
    host = re.sub(r"^\[(?=[0-9a-f]*:)", "[[]", host)  # the address of IPv6, which is no choice of characters
    return f"{scheme}://{host}{slash}{path}"


def matches(glob: str, ref: AdapterRef) -> bool:
    """Whether a glob matches a reference or a folder above it; an artifact with its tag or without.

    What is behind its first ``@`` is a glob over revisions, where the reference can have one.
    """
    names = [_of_any_user(str(replace(ref, revision=None)))]
    if ref.scheme == "file":
        names = ["file://" + posixpath.normpath(ref.location)]
    elif ref.scheme in WITH_REVISIONS:
        glob, at, revision = glob.partition("@")
        revision = revision.lower() if ref.pinned else revision
        if at and (ref.revision is None or not _pattern(revision).match(ref.revision)):
            return False
    if ref.scheme == "oci":
        tags = ["", "" if ref.revision else ref.location.removeprefix(ref.untagged) or ":latest"]
        names = [str(replace(ref, location=ref.untagged + tag, revision=None)) for tag in tags]
    elif ref.scheme == "hf":
        # The Hub takes ACME/x for acme/x; a policy that did not would be walked around.
        names, glob = [names[0].casefold()], glob.casefold()
    if "/" not in ref.location:  # a whole host or bucket: what denies all below it denies it
        names.append(f"{names[0]}/")
    patterns = _pattern(glob), _pattern(glob.rstrip("/") + "/*")
    return any(pattern.match(name) for name in names for pattern in patterns)


@lru_cache(maxsize=16_384)  # the globs of a policy are asked for each adapter
def _pattern(glob: str) -> re.Pattern[str]:
    """Docker Hub's ``alpine`` is ``library/alpine``."""
    return re.compile(translate(glob).replace(r"oci://docker\.io/", r"oci://docker\.io/(?:library/)?", 1))


def _of_any_user(text: str) -> str:
    """The host in lower case and no user of another machine's file system; ``ssh`` is ``sftp``."""
    text = re.sub("^fsspec[+](gs|az)://", lambda found: f"fsspec+{'gcs' if found[1] == 'gs' else 'abfs'}://", text)
    if found := re.fullmatch("fsspec[+](sftp|ssh|smb|hdfs)://(?:[^/]*@)?([^/]*)(.*)", text):
        protocol = found[1].replace("ssh", "sftp")
        return f"fsspec+{protocol}://{found[2].lower().removesuffix(':22')}{re.sub('//+', '/', found[3])}"
    return text
