"""Globs over canonical references: written in any way, they mean one thing, as references do."""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import translate
from functools import lru_cache
from pathlib import Path

from lora_cli.refs.addresses import DOCKER_HUB, HUB_HOSTS
from lora_cli.refs.reference import ALIASES, WITH_REVISIONS, AdapterRef
from lora_cli.refs.web_address import DEFAULT_PORTS, is_loopback, unescaped

WITH_HOST = frozenset({"fsspec+sftp://", "fsspec+ssh://", "fsspec+smb://", "fsspec+hdfs://"})
"""What is before the ``[user@]host`` in references to other machines' file systems."""

_OFFICIAL = "docker.io/library/"

_TAGGED_FOLDER = re.compile(r"(:[^:/@]*)/(?!/)")
_HOST_GLOB = re.compile(r"(?:[a-z0-9*?._-]+|\[[0-9a-f:.*?]+\])(?::[0-9*?]{1,5})?")


def source_glob(glob: str, base_dir: Path) -> str:
    """A glob over canonical references: ``./x/*`` and ``/x`` are files, ``org/*`` and a page of the Hub ``hf://``.

    Raises:
        ValueError: the host in an address is none.
    """
    scheme, mark, rest = glob.partition("://")
    if not mark:
        if glob.startswith(("./", "../", "/")) or glob in {".", ".."}:
            return "file://" + posixpath.normpath(posixpath.join(base_dir.absolute(), glob))
        return glob if glob.startswith("*") else "hf://" + glob
    scheme = ALIASES.get(scheme.lower(), scheme.lower())
    host, slash, path = rest.partition("/")
    if scheme == "az":
        return f"az://{host.lower().replace('.blob.core.windows.net', '.dfs.core.windows.net')}{slash}{path}"
    if scheme not in DEFAULT_PORTS:
        is_oci = scheme == "oci"
        return f"oci://{_registry_glob(host)}{slash}{_with_folder(path)}" if is_oci else f"{scheme}://{rest}"
    host = host.lower().removesuffix(f":{DEFAULT_PORTS[scheme]}").removesuffix(".").replace("[[]", "[")
    if not _HOST_GLOB.fullmatch(host):
        raise ValueError("this is not a host address or a glob for one, without user and query")
    if slash and host in HUB_HOSTS:
        return "hf://" + path
    bracketed = host.replace("[", "[[]")  # around the address of IPv6, not around a choice of characters
    return f"{scheme}://{bracketed}{slash}{unescaped(path)}"


def _registry_glob(host: str) -> str:
    """A glob over registries: in lower case, without the default port, Docker Hub by the name that references have."""
    host = host.lower().replace("[[]", "[")
    port = DEFAULT_PORTS["http" if is_loopback(host) else "https"]
    host = host.removesuffix(f":{port}").removesuffix(".")
    if host in DOCKER_HUB:
        return "docker.io"
    # The address of IPv6, which is no choice of characters.
    return f"[[]{host[1:]}" if re.match(r"\[[0-9a-f]*:[0-9a-f:.*?]*\]", host) else host


def _with_folder(path: str) -> str:
    """The part of a glob behind the registry, with two slashes between a tag and a folder."""
    return _TAGGED_FOLDER.sub(r"\1//", path, count=1)


def matches(glob: str, ref: AdapterRef) -> bool:
    """Whether a glob matches a reference or a folder above it.

    What is behind its first ``@`` is a glob over revisions, where the reference can have one.
    """
    names = [str(replace(ref, revision=None))]
    if ref.scheme == "file":
        names = ["file://" + posixpath.normpath(ref.location)]
    elif ref.prefix in WITH_HOST:
        names, glob = [_without_user(names[0])], _without_user(glob)
    elif ref.scheme in WITH_REVISIONS:
        glob, at, revision = glob.partition("@")
        if at and (ref.revision is None or not fits(ref.revision, revision.lower() if ref.pinned else revision)):
            return False
    if ref.scheme == "oci":
        names = [*_oci_names(ref)]
    elif ref.scheme == "hf":
        # The Hub takes ACME/x for acme/x; a policy that did not would be walked around.
        names, glob = [names[0].casefold()], glob.casefold()
    return any(fits(name, each) for name in names for each in (glob, glob.rstrip("/") + "/*"))


def _oci_names(ref: AdapterRef) -> Iterator[str]:
    """An artifact without its tag, and with it; a tag beside a digest says nothing."""
    tag = ref.location.rpartition("/")[2].partition(":")[2]
    bare = ref.location.removesuffix(f":{tag}")
    for location in (bare, *([f"{bare}:{tag or 'latest'}"] if ref.revision is None else [])):
        yield str(replace(ref, location=location, revision=None))
        if location.startswith(_OFFICIAL):
            # Docker Hub's alpine is library/alpine.
            yield str(replace(ref, location=f"docker.io/{location.removeprefix(_OFFICIAL)}", revision=None))


def fits(name: str, glob: str) -> bool:
    """Whether the glob matches all of ``name``, letter by letter."""
    return _pattern(glob).match(name) is not None


@lru_cache(maxsize=16_384)  # the globs of a policy are asked for each adapter
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))


def _without_user(text: str) -> str:
    """``scheme://host/path`` with any user: the host in lower case, ``ssh`` as the ``sftp`` that it is."""
    scheme, _, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    host = authority.rpartition("@")[2].lower()
    return f"{scheme.replace('+ssh', '+sftp')}://{host}{re.sub('//+', '/', slash + path)}"
