"""The Dockerfile says what is safe, its locks cover what we depend on, and what it starts ends when it is told to."""

import os
import re
import signal
import time
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from lora_cli import __version__
from tests.conftest import ROOT
from tests.kubernetes.pods import OURS, containers, pods
from tests.sandbox import missing, start

FOLDER = ROOT / "manifests" / "container"
DOCKERFILE = FOLDER / "Dockerfile"
IGNORED = FOLDER / "Dockerfile.dockerignore"


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


def allowed() -> set[str]:
    """What of the repository the build may see."""
    lines = IGNORED.read_text().split("\n")
    assert "*" in lines
    return {line[1:] for line in lines if line.startswith("!")}


TARGETS = ("slim", "warm")


def lineage(target: str) -> list[tuple[str, str]]:
    """All that a stage consists of: its own instructions, and those of the stages that it is made from."""
    own = stages()[target]
    parents = [own[0][1].partition(" AS ")[0], *re.findall(r"--from=(\S+)", " ".join(words for _, words in own))]
    return own + [one for parent in parents if parent in stages() for one in lineage(parent)]


def test_the_base_is_pinned_to_a_patch_release() -> None:
    (base,) = [words for name, words in stages()[""] if name == "ARG"]
    assert re.fullmatch(r"PYTHON=python:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)
    for stage, (first, *_) in list(stages().items())[1:]:
        assert first[1].partition(" AS ")[0] in {"${PYTHON}", *stages()}, stage


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_number_that_is_not_root(target: str) -> None:
    users = [words for name, words in lineage(target) if name == "USER"]
    assert users == ["65532:65532"]
    assert all(pod["securityContext"]["runAsUser"] == 65532 for _, pod in pods())


def test_nothing_is_taken_from_anywhere_but_the_repository_and_the_index() -> None:
    assert "ADD" not in {name for name, _ in instructions()}
    for name, words in instructions():
        assert not re.search(r"\b(curl|wget|sudo|git)\b", words), words
        assert name not in {"ARG", "ENV"} or not re.search(r"TOKEN|KEY|PASSWORD|SECRET", words)
        assert all("--no-cache-dir" in one for one in re.findall(r"pip (?:install|wheel) [^&]*", words))
    assert all((ROOT / name).exists() for name in allowed() - {"**/__pycache__"})


def test_slim_has_no_torch_and_is_what_is_built_when_nobody_says() -> None:
    assert list(stages())[-1] == "slim"
    assert not any("[warm]" in words or "torch" in words.lower() for _, words in lineage("slim"))
    assert any("'lora-cli[models]'" in words for _, words in lineage("warm"))


def locked(name: str) -> dict[str, tuple[Version, int]]:
    """Each package of a lock file, with its version and how many hashes it has."""
    text = re.sub(r"#.*", "", (FOLDER / name).read_text()).replace("\\\n", " ")
    found: dict[str, tuple[Version, int]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        requirement = Requirement(line.partition("--hash")[0].strip())
        (version,) = requirement.specifier
        assert version.operator == "==", line
        found[canonicalize_name(requirement.name)] = Version(version.version), line.count("--hash=sha256:")
    return found


def asked(extra: str) -> list[Requirement]:
    """What pyproject.toml asks for in an image, with an extra and those that it contains."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else ())]
    found = [Requirement(text) for text in texts]
    inner = [name for one in found if one.name == project["name"] for name in one.extras]
    own = [one for one in found if one.name != project["name"]]
    return own + [one for name in inner for one in asked(name)]


@pytest.mark.parametrize(
    ("files", "extras"), [(["slim.txt"], ["signing"]), (["slim.txt", "warm.txt", "torch.txt"], ["models", "signing"])]
)
def test_the_lock_files_cover_what_an_image_depends_on(files: list[str], extras: list[str]) -> None:
    versions = {name: version for file in files for name, (version, _) in locked(file).items()}
    for requirement in [one for extra in extras for one in asked(extra)]:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_the_lock_file_of_the_build_covers_the_build_system() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for requirement in map(Requirement, build):
        assert requirement.specifier.contains(locked("build.txt")[requirement.name][0])


def test_every_package_is_locked_by_its_hashes_and_installed_from_a_lock() -> None:
    for name in ("build.txt", "slim.txt", "warm.txt"):
        assert all(hashes for _, hashes in locked(name).values()), name
    assert not {"torch", "triton", *locked("slim.txt")} & locked("warm.txt").keys()
    installs = [one for _, words in instructions() for one in re.findall(r"pip install ([^&]*)", words)]
    for words in installs:
        assert "--require-hashes -r" in words or "--no-index" in words or "-r torch.txt" in words, words
    assert (FOLDER / "lock.sh").stat().st_mode & 0o111


def test_the_manifests_run_these_images_of_this_version() -> None:
    ours = {one["image"] for _, pod in pods() for one in containers(pod) if one["image"].startswith(OURS)}
    built = {f"{OURS}{__version__}-{target}" for target in TARGETS}
    assert ours <= built
    assert all(image in DOCKERFILE.read_text() for image in built)


@pytest.mark.slow
def test_a_container_ends_when_it_is_told_to_though_it_is_process_1(tmp_path: Path) -> None:
    if missing():
        pytest.skip(missing())
    root = tmp_path / "root"
    root.mkdir()
    waits = ["lora-cli", "warm", "--endpoint", "http://127.0.0.1:9", "--engine", "vllm", "--base", "x/y", "x/z"]
    with start(root, [], waits, {"LORA_CLI_CACHE_DIR": "/cache"}, is_first=True) as process:
        try:
            child, until = first_child(process.pid), time.monotonic() + 20
            while process.poll() is None and time.monotonic() < until:
                with suppress(ProcessLookupError):  # it has ended, and its parent is about to
                    os.kill(child, signal.SIGTERM)
                time.sleep(0.1)
            assert process.returncode == 143
        finally:
            process.kill()


def first_child(parent: int) -> int:
    listed, until = Path(f"/proc/{parent}/task/{parent}/children"), time.monotonic() + 20
    if not listed.exists():
        pytest.skip("the kernel does not list children")
    while time.monotonic() < until:
        children = listed.read_text().split()
        with suppress(FileNotFoundError, ProcessLookupError):  # what prepares the container ends meanwhile
            if children and Path(f"/proc/{children[0]}/comm").read_text().strip() in {"lora-cli", "python", "python3"}:
                return int(children[0])
        time.sleep(0.05)
    raise AssertionError("it did not start")
