"""What is fetched from each place, and in which states of the cache, the lock and the server."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.golden.places import KINDS, Place
from tests.golden.running import Case
from tests.recorded.machine import run

WORLD = Path(__file__).parents[1] / "recorded/world/adapters"
SQL = "53db58ee7d4a6cbcdcc045a2990734e606718340dc9e00288bd70008438825f3"
"""The digest of the snapshot of ``sql``."""

WAYS = """
plain | sql | <sql>
several | sql chat | <sql> <missing> <chat>
missing | chat | <sql>
changed | sql fetch sql=sql-v2 | <sql>
set | set | -f set.yaml
locked | set lock | -f set.yaml --locked --cache-dir other
locked, and changed | set lock sql=sql-v2 | -f set.yaml --locked --cache-dir other
locked, and changed, but cached | set lock sql=sql-v2 | -f set.yaml --locked
locked, without a lock | set | -f set.yaml --locked
changed, and checked | set lock sql=sql-v2 | -f set.yaml --check
the sha256 of the manifest | set:SQL | -f set.yaml
another sha256 in the manifest | set:0 | -f set.yaml
pickled | pickled | <pickled>
pickled, and allowed | pickled | <pickled> --allow-pickle
cached, and offline | sql fetch | <sql> --offline
not cached, and offline | sql | <sql> --offline
published | set | -f set.yaml --publish out
published, and changed | set publish sql=sql-v2 | -f set.yaml --publish out --upgrade
to a folder | sql | <sql> --to out
over the maximum | sql | <sql> LORA_CLI_MAX_BYTES=4000
no weights | noweights | <noweights>
"""
"""A name; what happens before, ``=`` is an adapter with the files of another one; and what ``fetch`` is told."""
BY_NETWORK = """
breaking off | sql cut_at:4000 | <sql>
nothing comes | sql cut_at:0 | <sql>
nothing came at first | sql cut_at:0 fetch mend | <sql>
"""
FLIPPED = """
a bit turned over | sql flip_at:4000 | <sql>
locked, and a bit turned over | set lock flip_at:4000 | -f set.yaml --locked --cache-dir other
"""
PINNED = """
pinned | sql sql=sql-v2 | <sql>@<pin>
no such pin | sql | <sql>@<nopin>
"""


def fetches(data: Path) -> Iterator[Case]:
    """All cases; a server runs until its last."""
    for kind, served in KINDS.items():
        (data / kind).mkdir()
        with served(data / kind) as place:
            ways = WAYS + BY_NETWORK * (place.fault is not None) + PINNED * (kind in {"hub", "oci"})
            ways += FLIPPED * (kind in {"hub", "s3", "gs", "oci"})
            for number, way in enumerate(ways.split("\n")):
                if way:
                    name, before, told = way.split(" | ")
                    place.mend()
                    words = told.split()
                    env = dict(word.split("=") for word in words if word.startswith("LORA_CLI_"))
                    words = [word for word in words if not word.startswith("LORA_CLI_")]
                    prepare = partial(_prepare, place, f"case{number}", before.split(), words)
                    yield Case(f"{kind}: {name}", prepare, env={**place.env, **env})


def _prepare(place: Place, where: str, steps: Sequence[str], told: Sequence[str]) -> Sequence[str]:
    """Does the steps in a folder of the place that no other case has."""

    def ref(name: str) -> str:
        return place.at.format(path=f"{where}/{name}", here=Path.cwd())

    pins = []
    for step in steps:
        what, _, value = step.partition(":")
        if what.endswith("_at") and place.fault is not None:
            place.fault(**{what: int(value)})
        elif what == "mend":
            place.mend()
        elif what == "fetch":
            run(["fetch", ref("sql")])
        elif what in {"lock", "publish"}:
            run(["fetch", "-f", "set.yaml", *["--publish", "out"] * (what == "publish")])
        elif what == "set":
            for name in ("sql", "chat"):
                place.put(f"{where}/{name}", _files(name))
            told_digest = {"sha256": SQL if value == "SQL" else value * 64} if value else {}
            adapters = [{"name": "sql", "source": ref("sql"), **told_digest}, {"name": "talk", "source": ref("chat")}]
            head = {"apiVersion": "lora-cli/v1", "kind": "AdapterSet"}
            Path("set.yaml").write_text(json.dumps({**head, "adapters": adapters}))
        else:
            name, _, like = step.partition("=")
            pins.append(str(place.put(f"{where}/{name}", _files(like or name))))
    spelt = {"pin": pins[0], "nopin": f"{pins[0][:-8]}{'0' * 8}"} if pins else {}
    names = {word for part in told for word in part.replace(">", "<").split("<")[1::2]}
    values = {name: spelt.get(name) or ref(name) for name in names}
    return [_spelt(word, values) for word in told]


def _spelt(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(f"<{name}>", value)
    return word


def _files(name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((WORLD / name).iterdir()) if path.is_file()}
