"""What the whole suite shares: the real model, the adapters trained on it, and a home of its own for each test."""

import fcntl
import gc
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from lora_cli import redaction
from lora_cli.cli import main as app
from tests.hf_variables import set_variables
from tests.object_servers import AzureServer, GcsServer, S3Server, azurite, fake_gcs, rclone, seaweed, sftp
from tests.oci_server import Registry, registry
from tests.processes import needed

if TYPE_CHECKING:
    from typer.core import TyperGroup

    from tests.peft.peft_models import Written

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "manifests" / "quickstart"
ASSETS = ROOT / ".assets"
HOMES = itertools.count()
INSTALLED = {"azure_server", "docker_registry", "oci_registry"}
"""Servers that ``.ci/run`` installs."""

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# Threads of torch and numpy that wait for each other do not spin: as many processes as processors run here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell has SIGINT ignored in what it starts in the background, and tests send it.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

OURS = ("LORA_CLI_", "HF_", "HUGGING", "TRANSFORMERS_OFFLINE", "AWS_", "GOOGLE_", "STORAGE_", "AZURE_")
# The same examples at every run, so that a gate does not depend on luck.
hypothesis_settings.register_profile(
    "same", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
hypothesis_settings.load_profile("same")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected stays: to search it for cycles again and again takes a tenth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a program that pip does not install is slow, so that ``make test`` needs nothing else.

    Files of this folder come first, then those below it: some of them are long, and would run alone at the end.
    Ray comes last: on Python 3.13 a process forked from one that has imported it dies in its library.
    """
    for item in items:
        if INSTALLED & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: (item.path.name == "test_ray.py", item.path.parent != ROOT / "tests"))


@pytest.fixture(autouse=True, scope="module")
def no_search_through_what_stays() -> None:
    """Freezes what is imported and collected: a search for cycles that goes through it takes most of a second."""
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def a_home_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test reads or writes the caches, tokens or settings of whoever runs it."""
    home = tmp_path_factory.getbasetemp() / "homes" / str(next(HOMES))
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    set_variables(monkeypatch, HF_HUB_DISABLE_TELEMETRY="1", HF_HOME=str(home / "huggingface"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "docker"))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "aws-credentials"))
    yield
    if home.is_dir():
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_secrets_of_another_test() -> None:
    """What a process knows to be a secret, no message of it repeats."""
    redaction.forget()


@pytest.fixture(autouse=True)
def no_talk_set_by_another_test() -> None:
    """``--quiet`` and ``--verbose`` set the level of one logger for a whole process."""
    logger = logging.getLogger("lora_cli")
    logger.handlers = []
    logger.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True, scope="session")
def each_command_is_built_once() -> Iterator[None]:
    """A process runs one command line, tests thousands: typer takes longer to build a command than to use it."""
    built, loaded, known = app.build_app, app.load_command, {*app.COMMANDS}
    command = lru_cache(loaded)

    @lru_cache
    def root(_names: tuple[str, ...]) -> "tuple[TyperGroup, dict[str, Any]]":
        group = built()
        return group, {**group.commands}

    def build_app() -> "TyperGroup":
        group, stubs = root((*app.COMMANDS,))
        group.commands = {**stubs}
        return group

    def load_command(name: str, _root: "TyperGroup | None" = None) -> app.Command:
        return command(name) if name in known else loaded(name)

    with mock.patch.multiple(app, build_app=build_app, load_command=load_command):
        yield


@pytest.fixture(autouse=True, scope="session")
def botocore_reads_its_models_once() -> Iterator[None]:
    """Sessions share the loader of what describes S3: to read that takes most of the time of a request."""
    import botocore.session

    with mock.patch.object(botocore.session, "create_loader", cache(botocore.session.create_loader)):
        yield


@pytest.fixture(scope="session")
def peft_wrote(tmp_path_factory: pytest.TempPathFactory) -> "Callable[[str], Written]":
    """What the real PEFT writes for a case of ``tests.peft.peft_cases``: once for all that read it."""
    made: dict[str, Written] = {}

    def of(name: str) -> "Written":
        if name not in made:
            from tests.peft.peft_cases import CASES
            from tests.peft.peft_models import write_with_peft

            case = CASES[name]
            options = {"r": 4, "lora_alpha": 12, **case.options}
            made[name] = write_with_peft(tmp_path_factory.mktemp("peft"), case.family, options, case.base)
        return made[name]

    return of


@pytest.fixture(scope="session")
def seaweed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS, started when the first test asks for it."""
    with seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """rclone's S3, a second opinion."""
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    """fake-gcs-server, which speaks Google Cloud Storage."""
    with fake_gcs(tmp_path_factory.mktemp("gcs")) as server:
        yield server


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """Azurite, which speaks Azure Blob Storage."""
    needed("npm")
    with azurite(tmp_path_factory.mktemp("azure")) as server:
        yield server


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Debian's docker-registry, to which everybody may push."""
    needed("docker-registry")
    with registry(tmp_path_factory.mktemp("oci")) as server:
        yield server


@pytest.fixture
def oci_registry(docker_registry: Registry, a_home_of_its_own: None) -> Registry:
    """A registry to which this test may push."""
    return docker_registry


@pytest.fixture(scope="session")
def sftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """rclone's SFTP: where it is, and the folder that it serves."""
    folder = tmp_path_factory.mktemp("sftp") / "served"
    folder.mkdir()
    with sftp(folder) as place:
        yield place, folder


@pytest.fixture(scope="session")
def real_model() -> Path:
    """SmolLM2-135M-Instruct as bf16 safetensors, built once into the git-ignored assets."""
    subprocess.run([sys.executable, str(QUICKSTART / "build_model.py")], check=True, capture_output=True)
    return ASSETS / "smollm2-135m"


@pytest.fixture(scope="session")
def real_adapters(real_model: Path) -> dict[str, Path]:
    """The adapters that PEFT trained on that model: the two committed ones, and an all-linear rsLoRA one.

    The third is too large to be committed: a few steps of its training are run here if no one ran them all before.
    """
    trained = ASSETS / "json"
    with (ASSETS / ".training").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other processes of a parallel run wait for it
        if not (trained / "adapter_model.safetensors").is_file():
            train = [sys.executable, str(QUICKSTART / "train_adapters.py"), "json", "--steps", "2"]
            subprocess.run(train, check=True, capture_output=True)
    return {"pirate": QUICKSTART / "pirate", "zubrowka": QUICKSTART / "zubrowka", "json": trained}
