"""A machine on which recorded command lines run: a folder, a cache, an environment, and servers on loopback."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

from lora_cli.cli.main import main
from tests.faulty_proxy import FaultyProxy
from tests.hub_server import Hub
from tests.object_servers import S3Server
from tests.recorded.normalise import Normaliser
from tests.web_server import Site, WebServer

WORLD = Path(__file__).parent / "world"
TOKEN = "hf_recorded"
CLOSED = ("-private", "-gated")
"""How the names of adapters end that a Hub gives to whoever has the token, or to nobody else."""

PATHS = (["fetch"], ["cache", "path"])
"""Commands whose output for people is paths."""


@dataclass(frozen=True)
class Case:
    """One command line, and what is there before it runs.

    ``source`` is where adapters come from: ``folder``, ``hub``, ``s3``, ``web``, or ``cached`` (a Hub that they were
    fetched from). ``publish`` names those that are there. ``before`` has command lines, and changes of the world:
    ``{"change": [adapter, other]}`` gives an adapter the files of another one, ``{"damage": kind}`` damages the cache,
    ``remove``, ``write`` and ``edit`` change files of the folder, ``fault`` the server's answers. ``<<name>>`` is the
    reference of an adapter. ``slow`` ones run in ``make test-all``. ``result`` is what the snapshot has.
    """

    id: str
    source: str
    argv: Sequence[str] = ()
    publish: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    before: Sequence[Any] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False
    result: Mapping[str, Any] = field(default_factory=dict)


class Origin:
    """Where a case's adapters come from, and who asked for what."""

    def __init__(self, case: Case, here: Path, s3: S3Server | None, stack: ExitStack) -> None:
        self._here = here
        self.env: dict[str, str] = {"HF_ENDPOINT": "http://127.0.0.1:9"}
        self.names: list[tuple[str, str]] = []
        self._asked = 0
        kind = "hub" if case.source == "cached" else case.source
        if kind == "hub":
            self.hub = stack.enter_context(Hub())
            self.env["HF_ENDPOINT"] = self.hub.endpoint
            self.hub.token(TOKEN, *(f"acme/{name}" for name in case.publish if name.endswith(CLOSED)))
            self.names = [(self.hub.endpoint, "<hub>"), (self.hub.endpoint.partition("://")[2], "<hub-host>")]
        elif kind == "web":
            self.site = Site()
            self.web = stack.enter_context(WebServer(self.site))
            self.names = [(f"http://{self.web.place}", "<web>"), (self.web.place, "<web-host>")]
        elif kind == "s3":
            assert s3 is not None
            self.server, bucket = s3, s3.place().partition("/")[0]
            self.place = f"{bucket}/{case.id}"
            self.proxy = stack.enter_context(FaultyProxy(s3.endpoint, own_host=True))
            self.env |= {**s3.environ, "AWS_ENDPOINT_URL": self.proxy.url}
            self.names = [(bucket, "<bucket>"), (self.proxy.url, "<s3>"), (self.proxy.place, "<s3-host>")]
        self.kind = kind
        for name in case.publish:
            self.put(name, name)

    def ref(self, name: str) -> str:
        """How an adapter is asked for."""
        if self.kind == "hub":
            return f"acme/{name}"
        if self.kind == "web":
            return f"http://{self.web.place}/{name}"
        return f"s3://{self.place}/{name}" if self.kind == "s3" else f"adapters/{name}"

    def put(self, name: str, like: str) -> None:
        """Gives an adapter the files of a folder of the world."""
        bare = like.removesuffix(CLOSED[0]).removesuffix(CLOSED[1])
        folder = next(folder / bare for folder in (WORLD / "adapters", WORLD / "bases") if (folder / bare).is_dir())
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        if self.kind == "hub":
            self.hub.add(f"acme/{name}", files, private=name.endswith(CLOSED[0]), gated=name.endswith(CLOSED[1]))
        elif self.kind == "web":
            self.site.files.update({f"{name}/{path}": data for path, data in files.items()})
        elif self.kind == "s3":
            self.server.put(f"{self.place}/{name}", files)
        else:
            for path, data in files.items():
                target = self._here / "adapters" / name / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)

    def fault(self, match: str, how: Mapping[str, Any]) -> None:
        """Every answer to a request that matches goes wrong."""
        if self.kind == "hub":
            self.hub.fault(match, times=-1, **how)
        elif self.kind == "s3":
            self.proxy.fault(match, times=-1, **how)
        else:
            name, _, file = match.partition(".*")
            self.site.statuses[f"{name}/{file}"] = how["status"]

    def listen(self) -> None:
        """From now on requests count."""
        self._asked = len(self._log())

    def requests(self, normaliser: Normaliser) -> dict[str, int]:
        """Each request since then, and how often it was made."""
        lines = self._log()[self._asked :]
        return dict(sorted(Counter(re.sub(r"[?&]sig=[0-9a-f]+", "", normaliser.text(line)) for line in lines).items()))

    def _log(self) -> list[str]:
        if self.kind == "hub":
            asked = [(f"{one.method} {one.origin} {one.target}", one.authorized) for one in self.hub.requests]
        elif self.kind == "web":
            asked = [(f"{one.method} web {one.target}", "Authorization" in one.headers) for one in self.web.asked]
        elif self.kind == "s3":
            asked = [(_question(one.line.rpartition(" ")[0]), one.authorized) for one in self.proxy.asked]
        else:
            asked = []
        return [f"{line} authorized" if authorized else line for line, authorized in asked]


def _question(line: str) -> str:
    """A request to S3; of one for a listing neither the order of its query counts nor how keys are to be encoded."""
    path, mark, query = line.partition("?")
    if not mark:
        return line
    parts = sorted(part for part in query.split("&") if part != "encoding-type=url")
    return f"{path.rstrip('/')}/?{'&'.join(parts)}"


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Only these variables, and those that programs need."""
    needed = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ}
    with mock.patch.dict(os.environ, {**needed, **values}, clear=True):
        yield


def run(argv: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line, in this process."""
    said, told = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(stream, encoding="utf-8", write_through=True) for stream in (said, told))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(argv))
    return code, said.getvalue().decode(), told.getvalue().decode()


def observe(case: Case, s3: S3Server | None = None) -> dict[str, Any]:
    """What one case does."""
    with ExitStack() as stack:
        here = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recorded-"))).resolve()
        shutil.copytree(WORLD, here, dirs_exist_ok=True)
        origin = Origin(case, here, s3, stack)
        names = [(str(here), "<here>"), (quote(str(here)), "<here>"), *origin.names]
        normaliser = Normaliser(names, case.source, _measured(case.argv))
        stack.enter_context(contextlib.chdir(here))
        env = {
            "HOME": str(here / "home"), "HF_HOME": str(here / "home/hf"), "XDG_CONFIG_HOME": str(here / "home/config"),
            "LORA_CLI_CACHE_DIR": str(here / "cache"), "LORA_CLI_RETRIES": "0", "LORA_CLI_TIMEOUT": "10s",
            "AWS_EC2_METADATA_DISABLED": "true", "HF_HUB_DISABLE_TELEMETRY": "1", **origin.env,
        }  # fmt: skip

        def spelt(text: str) -> str:
            text = re.sub(r"<<([\w-]+)>>", lambda found: origin.ref(found[1]), text)
            for found, name in reversed(names):
                text = text.replace(name, found)
            return text

        for path, text in case.files.items():
            (here / path).write_text(spelt(text))
        stack.enter_context(environment(env))
        for step in case.before:
            _do(step, origin, here, spelt)
        started = _tree(here)
        origin.listen()
        with environment({**env, **{name: spelt(value) for name, value in case.env.items()}}):
            code, out, err = run([spelt(word) for word in case.argv])
        assert "Traceback" not in err, err
        told: dict[str, Any] = {"exit": code}
        paths = "--help" not in case.argv and ([*case.argv[:1]] in PATHS or [*case.argv[:2]] in PATHS)
        if (said := normaliser.stdout(out, paths=paths)) is not None:
            told["stdout"] = said
        if found := sorted(set(re.findall(r"\bLC\d{3}\b", out))):
            told["rules"] = found
        told["files"] = _changed(started, _tree(here), here, normaliser)
        asked = origin.requests(normaliser)
        # Where one file cannot be had, it depends on the moment which others were asked for.
        if asked and code < 3 and not any("fault" in step for step in case.before):
            told["requests"] = asked
        return told


def _measured(argv: Sequence[str]) -> type | None:
    """Which numbers are this machine's, or of a workload that was drawn: not those of a trace."""
    if argv[:1] == ["warm"]:
        return float
    return object if argv[:1] == ["serve-bench"] and "--trace" not in argv else None


def _do(step: Any, origin: Origin, here: Path, spelt: Any) -> None:
    if isinstance(step, list):
        run([spelt(word) for word in step])
    elif "change" in step:
        origin.put(*step["change"])
    elif "fault" in step:
        origin.fault(*step["fault"])
    elif "edit" in step:
        name, old, new = step["edit"]
        (here / name).write_text((here / name).read_text().replace(old, new, 1))
    elif "remove" in step:
        path = here / step["remove"]
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif "write" in step:
        path, text = step["write"]
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        (here / path).write_text(spelt(text))
    else:
        _damage(here / "cache", step["damage"])


def _damage(cache: Path, kind: str) -> None:
    """Damages what is in a cache, if anything is."""
    weights = max(cache.glob("blobs/sha256/*/*"), key=lambda path: path.stat().st_size, default=None)
    if weights is None:
        return
    if kind == "blob":
        weights.chmod(0o644)
        weights.write_bytes(bytes(weights.stat().st_size))
    elif kind == "snapshot":
        for file in [*cache.glob("snapshots/sha256/*/adapter_config.json")][:1]:  # none where it was refused
            file.unlink()
            file.write_bytes(b"{}")
    elif kind == "lost":
        weights.unlink()
    else:
        raise ValueError(kind)


def _tree(here: Path) -> dict[str, tuple[int, int, int]]:
    """Each file with what tells whether it changed."""
    files = ((path, path.lstat()) for path in here.rglob("*") if path.is_file() or path.is_symlink())
    return {path.relative_to(here).as_posix(): (was.st_ino, was.st_size, was.st_mtime_ns) for path, was in files}


INSIDE = re.compile(r"(?:cache|other)/(refs|locks|tmp)/.*")


def _changed(before: Mapping[str, Any], after: Mapping[str, Any], here: Path, normaliser: Normaliser) -> list[str]:
    """Each file that is new, another or gone; of the cache's own books only how many there are."""
    lines, books = [], Counter[str]()
    for name in sorted(before.keys() | after.keys()):
        if inside := INSIDE.fullmatch(name):
            books[inside[1]] += name in after
        elif name.endswith("/CACHEDIR.TAG") or name.startswith("home/"):
            continue
        elif name not in after:
            lines.append(f"- {normaliser.text(name)}")
        elif before.get(name) != after[name]:
            lines.append(f"{normaliser.text(name)} {_digest(here / name, normaliser)}")
    quiet = {"locks"}
    return lines + [f"{name}: {count}" for name, count in sorted(books.items()) if count and name not in quiet]


def _digest(path: Path, normaliser: Normaliser) -> str:
    """The beginning of a file's sha256, as it would be on any machine; none of what people read."""
    if path.suffix in {".html", ".md", ".txt"}:
        return "there"
    data = path.read_bytes()
    if "snapshots" not in path.parts and "blobs" not in path.parts and "adapters" not in path.parts:
        if path.suffix in {".json", ".sarif"}:
            data = json.dumps(normaliser.json(json.loads(data)), sort_keys=True).encode()
        elif path.suffix == ".xml":
            data = json.dumps(normaliser.xml(data.decode())).encode()
        elif path.suffix in {".yaml", ".jsonl"}:
            data = normaliser.text(data.decode()).encode()
    return hashlib.sha256(data).hexdigest()[:16]
