"""Which files of an adapter a web server has below an address. There is no listing to ask for: every name is asked for.

A page about a folder is not read as one: servers write it for people, and each in its own way.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lora_cli.core.adapter_files import BESIDE, CONFIG, INDEX_SUFFIX, PICKLED, WEIGHTS
from lora_cli.core.snapshot import RemoteFile
from lora_cli.errors import AccessDenied, LoraCliError, NotFound, Refused

NOWHERE = "no-such-file.lora-cli"
"""A name that no adapter has: what a server says to it is what it says when there is nothing."""

MOST_SHARDS = 1000
GONE, FORBIDDEN = frozenset({404, 410}), frozenset({401, 403})
INDEX_CAP = 16 * 1024 * 1024
LONGEST_SHARD = 64
_SHARD = re.compile(rb'"(adapter_model-[0-9]{5}-of-[0-9]{5}\.(?:safetensors|bin))"')


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server answered to one name: its status, whether that was a web page, and the file, if it is one."""

    name: str
    status: int
    page: bool = False
    file: RemoteFile | None = None


Look = Callable[[Iterable[str]], Mapping[str, Seen]]
"""Asks for names, several at once."""


def list_files(look: Look, index: Callable[[str], set[str]], what: str, server: str) -> tuple[RemoteFile, ...]:
    """The files of an adapter that are there: config and weights first, then what may lie beside them.

    ``index`` gives the shards that a file names. Pickled weights are asked for only where there are no others.

    Raises:
        NotFound: there is neither config nor weights, or the server has something for every name.
        AccessDenied: the server wants to know who asks, or forbids a file.
        Refused: an index names over 1000 shards.
    """
    seen = dict(look((CONFIG, WEIGHTS, WEIGHTS + INDEX_SUFFIX, NOWHERE)))
    weights: tuple[str, ...] = (WEIGHTS,)
    if not any(seen[name].file for name in (WEIGHTS, WEIGHTS + INDEX_SUFFIX)):
        weights = PICKLED
        seen |= look(name + suffix for name in PICKLED for suffix in ("", INDEX_SUFFIX))
    _check_server(seen, what, server)
    found = [name + suffix for name in weights for suffix in ("", INDEX_SUFFIX) if seen[name + suffix].file]
    if not found:
        for one in seen.values():
            if one.name not in {CONFIG, NOWHERE} and one.status in FORBIDDEN:
                raise _denied(one, what, server)
    if not found and not seen[CONFIG].file:
        raise _nothing(seen, what, server)
    shards = sorted({shard for name in found if name.endswith(INDEX_SUFFIX) for shard in index(name)})
    if len(shards) > MOST_SHARDS:
        raise Refused(f"{what}: its index names over {MOST_SHARDS} shards", hint="an adapter is a few files")
    seen |= look((*sorted(BESIDE), *shards))
    _check_server(seen, what, server)
    missing = [RemoteFile(name, None, defect="is named by the index, and is not there") for name in shards]
    files = {file.path: file for file in missing} | {one.name: one.file for one in seen.values() if one.file}
    return tuple(file for _, file in sorted(files.items()))


def shards_in(index: Iterable[bytes], _: str = "") -> set[str]:
    """The shards that an index names, as it comes; whatever else it names is no file of an adapter."""
    found: set[str] = set()
    before = b""
    for chunk in index:
        text = before + chunk
        found.update(name.decode() for name in _SHARD.findall(text))
        if len(found) > MOST_SHARDS:
            break
        before = text[-LONGEST_SHARD:]
    return found


def _check_server(seen: Mapping[str, Seen], what: str, server: str) -> None:
    """Whether the answers say what is there at all."""
    if seen[NOWHERE].file is not None:
        hint = "give the address of a server of files"
        raise NotFound(f"{what}: {server} has a file for every name, so nobody can tell which are there", hint=hint)
    # Object stores forbid what is not there to those who may not list.
    forbidden = FORBIDDEN - {seen[NOWHERE].status}
    for one in seen.values():
        if one.status in (FORBIDDEN if one.name == CONFIG else forbidden):
            raise _denied(one, what, server)


def _denied(one: Seen, what: str, server: str) -> LoraCliError:
    if one.status == 401:
        hint = "name the variable that holds a token: sources: [{match: …, token_env: LORA_CLI_TOKEN_NAME}]"
        return AccessDenied(f"{what}: {server} wants to know who asks (401, at {one.name})", hint=hint)
    hint = "check the path and who may read it; some servers say that of what is not there"
    return AccessDenied(f"{what}: {server} forbids {one.name} ({one.status})", hint=hint)


def _nothing(seen: Mapping[str, Seen], what: str, server: str) -> LoraCliError:
    if seen[CONFIG].page:
        hint = "it may be a login page or an application: give the address that the files themselves are at"
        return NotFound(f"{what}: {server} answers with a web page where {CONFIG} should be", hint=hint)
    status = seen[CONFIG].status
    hint = f"give the folder that {CONFIG} is in; archives are not unpacked"
    return NotFound(f"{what}: there is neither {CONFIG} nor {WEIGHTS} ({server} answered {status})", hint=hint)
