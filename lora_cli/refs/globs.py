"""Globs over canonical references: written in any way, they mean one thing, as references do."""

import posixpath
import re
from dataclasses import replace
from fnmatch import translate
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from lora_cli.refs.reference import ALIASES, DOCKER_HUB, HUB_HOSTS, WITH_REVISIONS, AdapterRef
from lora_cli.refs.web_address import DEFAULT_PORTS, PLAIN, is_loopback


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
