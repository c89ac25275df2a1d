"""Builds an image by its Dockerfile, as far as ours goes: each layer is a folder, each RUN is run in it."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT
from tests.sandbox import BUILDER, start

FOLDER = ROOT / "manifests" / "container"
DOCKERFILE = FOLDER / "Dockerfile"
IGNORED = FOLDER / "Dockerfile.dockerignore"


@dataclass
class Image:
    """What a stage makes: its files in ``root``, and how it is run."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its words, lines that go on joined and comments gone."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [
        (name, " ".join(rest.split())) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, its ``FROM`` first; those before the first stage are in the one called ""."""
    found: dict[str, list[tuple[str, str]]] = {"": []}
    for name, words in instructions():
        if name == "FROM":
            found[words.rpartition(" AS ")[2]] = []
        found[list(found)[-1]].append((name, words))
    return found


def build(target: str, folder: Path, environ: dict[str, str], built: dict[str, Image]) -> Image:
    """The image of the stage ``target``; stages that it needs are built first and kept in ``built``.

    ``environ`` is what the builder's machine adds to each RUN, as a proxy or an index of packages is.
    """
    if target in built:
        return built[target]
    (_, words), *rest = stages()[target]
    parent = words.partition(" AS ")[0]
    image = Image(folder / target)
    if parent in stages():
        before = build(parent, folder, environ, built)
        image = Image(image.root, dict(before.environ), before.user, before.workdir, before.entrypoint, before.cmd)
        image.healthcheck, image.volumes = before.healthcheck, list(before.volumes)
        shutil.copytree(before.root, image.root, symlinks=True)
    image.root.mkdir(exist_ok=True)
    for name, said in rest:
        _apply(image, name, said, folder, environ, built)
    built[target] = image
    return image


def _apply(image: Image, name: str, said: str, folder: Path, environ: dict[str, str], built: dict[str, Image]) -> None:
    match name:
        case "WORKDIR":
            image.workdir = said
            (image.root / said.lstrip("/")).mkdir(parents=True, exist_ok=True)
        case "ENV":
            image.environ |= dict(word.split("=", 1) for word in shlex.split(said))
        case "ARG":
            image.environ |= dict([said.split("=", 1)])
        case "USER":
            image.user = said
        case "VOLUME":
            image.volumes.append(said)
        case "ENTRYPOINT":
            image.entrypoint = json.loads(said)
        case "CMD":
            image.cmd = json.loads(said)
        case "HEALTHCHECK":
            image.healthcheck = json.loads(said.partition("CMD ")[2])
        case "RUN":
            assert not image.user, "what is built is built before the user is named"
            words = ["sh", "-euc", f"cd {image.workdir}; {said}"]
            with start(image.root, [], words, {**image.environ, **environ}, user=BUILDER, stays=True) as process:
                out, _ = process.communicate(timeout=120)
            assert process.returncode == 0, f"{said}\n{out}"
        case "COPY":
            for source, target in _copied(image, said, folder, environ, built):
                target.parent.mkdir(parents=True, exist_ok=True)
                if source.suffix == ".txt" and source.parent == FOLDER:
                    target.touch()  # a lock: what it names is taken from this environment
                elif source.is_dir():
                    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy2(source, target)
        case _:
            assert name == "EXPOSE", name


def _copied(
    image: Image, said: str, folder: Path, environ: dict[str, str], built: dict[str, Image]
) -> Iterator[tuple[Path, Path]]:
    words = said.split()
    stage = re.fullmatch(r"--from=(\S+)", words[0])
    context = build(stage[1], folder, environ, built).root if stage else ROOT
    *sources, last = words[1:] if stage else words
    target = image.root / (last if last.startswith("/") else f"{image.workdir}/{last}").lstrip("/")
    for source in sources:
        assert stage or source in allowed(), f"{source} is kept from the build"
        yield context / source.lstrip("/"), target / Path(source).name if last.endswith("/") else target


def allowed() -> set[str]:
    """What of the repository the build may see."""
    lines = IGNORED.read_text().split("\n")
    assert "*" in lines
    return {line[1:] for line in lines if line.startswith("!")}


def run(image: Image, words: list[str], folder: Path, volume: Path, environ: dict[str, str]) -> "subprocess.Popen[str]":
    """A container of ``image``, read-only but for its volume."""
    from tests.sandbox import Mount

    layers = [Mount(entry, f"/{entry.name}", read_only=True) for entry in image.root.iterdir() if entry.name == "opt"]
    mounts = [*layers, *(Mount(volume, place) for place in image.volumes)]
    root = folder / "root"
    root.mkdir(exist_ok=True)
    paths = {"PATH": image.environ["PATH"].replace("$PATH", "/usr/bin:/bin")}
    return start(
        root,
        mounts,
        [*image.entrypoint, *words],
        {**image.environ, **environ, **paths},
        user=int(image.user.split(":")[0]),
    )
