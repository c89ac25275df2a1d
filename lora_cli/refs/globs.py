"""Globs over canonical references: written in any way, they mean one thing, as references do."""

import posixpath
import re
from dataclasses import replace
from fnmatch import translate
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from lora_cli.refs.reference import ALIASES, HUB_HOSTS, WITH_REVISIONS, AdapterRef
from lora_cli.refs.web_address import PLAIN, canonical_host, is_loopback


def source_glob(glob: str, base_dir: Path) -> str:
    """A glob over canonical references: ``./x`` is a file, ``org/*`` is ``hf://``; raises ``ValueError`` for a user."""
    word, mark, rest = glob.partition("://")
    if not mark:
        if glob.startswith(("./", "../", "/")) or glob in {".", ".."}:
            return "file://" + posixpath.normpath(posixpath.join(base_dir.absolute(), glob))
        return glob if glob.startswith("*") else "hf://" + glob
    scheme = ALIASES.get(word.lower(), word.lower())
    host, slash, path = rest.partition("/")
    if scheme == "az":
        host = host.lower().replace(".blob.core.windows.net", ".dfs.core.windows.net")
    elif scheme in {"https", "http", "oci"}:
        usual = scheme if scheme != "oci" else "http" if is_loopback(host) else "https"
        is_glob = re.search("[*?]", host) and "@" not in host
        host = host.lower() if is_glob else canonical_host(host, usual).replace("[", "[[]")
        if scheme != "oci" and slash and host in HUB_HOSTS:
            return f"hf://{path}"
        path = path if scheme == "oci" else quote(unquote_to_bytes(path), safe=PLAIN + "[?];")
    return _of_any_user(f"{scheme}://{host}{slash}{path}")


def matches(glob: str, ref: AdapterRef) -> bool:
    """Whether a glob matches a reference or a folder above it; an artifact with its tag or without.

    What is behind its first ``@`` is a glob over revisions, where the reference can have one.
    """
    names = [_of_any_user(str(replace(ref, revision=None)))]
    if ref.scheme == "file":
        names = ["file://" + posixpath.normpath(ref.location)]
    elif ref.scheme in WITH_REVISIONS:
        glob, at, revision = glob.partition("@")
        if at and (ref.revision is None or not _pattern(revision).match(ref.revision)):
            return False
    if ref.scheme == "oci":
        tags = ["", "" if ref.revision else ref.location.removeprefix(ref.untagged) or ":latest"]
        names = [str(replace(ref, location=ref.untagged + tag, revision=None)) for tag in tags]
    elif ref.scheme == "hf":
        # The Hub takes ACME/x for acme/x; a policy that did not would be walked around.
        names, glob = [names[0].casefold()], glob.casefold()
    patterns = _pattern(glob), _pattern(glob.rstrip("/") + "/*")
    return any(pattern.match(name) for name in names for pattern in patterns)


@lru_cache(maxsize=16_384)  # the globs of a policy are asked for each adapter
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))


def _of_any_user(text: str) -> str:
    """The host in lower case and no user of another machine's file system; ``ssh`` is ``sftp``."""
    if found := re.fullmatch("fsspec[+](sftp|ssh|smb|hdfs)://(?:[^/]*@)?([^/]*)(.*)", text):
        protocol = found[1].replace("ssh", "sftp")
        return f"fsspec+{protocol}://{found[2].lower()}{re.sub('//+', '/', found[3])}"
    return text
