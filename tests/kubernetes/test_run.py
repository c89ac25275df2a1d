"""The containers do what they are for, as written: as nobody, with nothing to write to but their volumes."""

import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.endpoint.engine import Engine
from tests.gate.walk import planted
from tests.hub_server import Hub
from tests.kubernetes.pods import container
from tests.kubernetes.sandbox import Sandbox
from tests.making import llama_modules, write_adapter, write_base_config
from tests.sandbox import missing
from tests.signing.pki import key_pair, sign

pytestmark = pytest.mark.slow

isolated = pytest.mark.skipif(bool(missing()), reason=missing())

NAMES = ("sql", "chat", "law")
MODULES = llama_modules(["q_proj", "v_proj"])
PATIENCE_S = 60.0
Works = Callable[[], bool]
Locked = Callable[..., Path]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub with a base, three adapters and a broken one."""
    root = tmp_path_factory.mktemp("hub")
    with Hub() as hub:
        write_base_config(root / "tiny")
        hub.add("acme/tiny", root / "tiny")
        hub.add("acme/broken", planted(root / "broken", "a17"))
        for seed, name in enumerate(NAMES):
            config = {"base_model_name_or_path": "acme/tiny"}
            hub.add(f"acme/{name}", write_adapter(root / name, modules=MODULES, seed=seed, config=config))
        yield hub


@pytest.fixture(scope="module")
def locked(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Locked:
    """Gives the folder with a set of these names and its lock, which is written once."""

    @cache
    def lock(*names: str) -> Path:
        folder = tmp_path_factory.mktemp("locked")
        (folder / "set").mkdir()
        entries = "".join(f"  - {{name: {name}, source: acme/{name}}}\n" for name in names)
        text = f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: hf://acme/tiny\nadapters:\n{entries}"
        (folder / "set" / "set.yaml").write_text(text)
        environ = {"HF_ENDPOINT": hub.endpoint, "LORA_CLI_CACHE_DIR": "/lock/cache"}
        args = ["fetch", "-f", "/lock/set.yaml"]
        code, out = Sandbox(folder, {"set": folder / "set"}, environ).run(
            {"args": args, "env": [], "volumeMounts": [{"name": "set", "mountPath": "/lock"}]}
        )
        assert code == 0, out
        return folder / "set"

    return lock


@pytest.fixture
def sandbox(tmp_path: Path, hub: Hub, locked: Locked) -> Iterator[Sandbox]:
    """The volumes of a pod, with the set and its lock in the ConfigMap."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        volumes = {name: tmp_path / name for name in ("set", "lora", "run", "tmp")}
        for folder in volumes.values():
            folder.mkdir()
        configure(volumes["set"], locked(*NAMES))
        environ = {"HF_ENDPOINT": hub.endpoint, "OMP_NUM_THREADS": "1"}
        yield Sandbox(tmp_path, {**volumes, "adapters": Path(memory)}, environ)


def configure(place: Path, made: Path) -> None:
    """Set and lock as a ConfigMap that is mounted: links through one that is swapped when it changes."""
    version = place / f"..version-{len(list(place.iterdir()))}"
    version.mkdir()
    link = place / "..data.tmp"
    link.symlink_to(version.name)
    for name in ("set.yaml", "set.lock.yaml"):
        shutil.copy(made / name, version)
        if not (place / name).is_symlink():
            (place / name).symlink_to(f"..data/{name}")
    link.replace(place / "..data")


def published(sandbox: Sandbox) -> set[str]:
    return {file.parent.name for file in (sandbox.volumes["lora"] / "adapters").glob("*/adapter_config.json")}


@isolated
def test_a_broken_adapter_is_left_out_and_the_pod_starts(sandbox: Sandbox, locked: Locked) -> None:
    configure(sandbox.volumes["set"], locked(*NAMES, "broken"))
    one, _ = container("vllm", "adapters")
    # The second time all of it is here: no network is needed.
    for endpoint in (sandbox.environ["HF_ENDPOINT"], "http://127.0.0.1:9"):
        at = Sandbox(sandbox.folder, sandbox.volumes, {"HF_ENDPOINT": endpoint})
        code, out = at.run(one)
        assert code == 0, out
        assert published(sandbox) == {*NAMES}
        assert [line.partition(":")[0] for line in at.termination_log.splitlines()] == ["broken"]
    weights = (sandbox.volumes["lora"] / "adapters").glob("*/adapter_model.safetensors")
    assert all(file.stat().st_nlink > 1 for file in weights)  # linked to the cache: no second copy


def test_the_init_container_takes_only_signed_adapters_with_the_policy(sandbox: Sandbox, tmp_path: Path) -> None:
    pair = key_pair(tmp_path, "acme")
    folder = sandbox.volumes["set"].resolve() / "..data"
    (folder / "acme.pub").write_bytes(pair.public.read_bytes())
    (folder / "policy.yaml").write_text(
        "apiVersion: lora-cli/v1\nkind: Policy\nrequire_signature: [{keys: [acme.pub]}]\n"
    )
    for name in ("acme.pub", "policy.yaml"):
        (sandbox.volumes["set"] / name).symlink_to(f"..data/{name}")
    init, _ = container("vllm", "adapters")
    more = {"LORA_CLI_POLICY": "/etc/lora/policy.yaml", "TMPDIR": "/lora"}
    init = {**init, "env": [*init["env"], *({"name": name, "value": value} for name, value in more.items())]}

    code, out = sandbox.run(init)

    assert (code, published(sandbox)) == (1, set()), out
    assert "policy require_signature" in out

    text = (folder / "set.yaml").read_text()
    for seed, name in enumerate(NAMES):
        adapter = write_adapter(
            tmp_path / name, modules=MODULES, seed=seed, config={"base_model_name_or_path": "acme/tiny"}
        )
        sign(adapter, pair.public.with_suffix(".key"), folder / f"{name}.sig")
        (sandbox.volumes["set"] / f"{name}.sig").symlink_to(f"..data/{name}.sig")
        text = text.replace(f"acme/{name}}}", f"acme/{name}, signature: {name}.sig}}")
    (folder / "set.yaml").write_text(text)
    code, out = sandbox.run(init)
    assert code == 0, out
    assert published(sandbox) == set(NAMES)


def test_an_adapter_that_the_lock_does_not_fit_is_left_out_and_said(sandbox: Sandbox) -> None:
    file = (sandbox.volumes["set"] / "set.yaml").resolve()
    file.write_text(file.read_text().replace("acme/law", "acme/sql"))

    code, out = sandbox.run(container("vllm", "adapters")[0])

    assert (code, published(sandbox)) == (0, {*NAMES} - {"law"})
    assert "law is locked for acme/law, but the manifest has acme/sql" in out


@isolated
def test_a_container_can_write_to_its_volumes_and_nowhere_else(sandbox: Sandbox) -> None:
    init, pod = container("vllm", "adapters")
    tried = (
        "id -u; for place in / /usr /etc /etc/lora /tmp /home /lora; do touch $place/x 2>/dev/null && echo $place; done"
    )

    assert sandbox.run(init, ["sh", "-c", tried])[1].split() == [str(pod["securityContext"]["runAsUser"]), "/lora"]


def test_the_job_shares_the_fleet_among_its_indexes(sandbox: Sandbox) -> None:
    for name in ("fetch", "validate"):
        one, _ = container("lora-fleet", name)
        parts = []
        for index in range(8):
            folder = sandbox.folder / f"{name}-{index}"
            folder.mkdir()
            parts.append(Sandbox(folder, sandbox.volumes, sandbox.environ, index=index))
        running = [part.start(one) for part in parts]
        ended = [process.communicate(timeout=PATIENCE_S)[0] for process in running]
        assert [process.returncode for process in running] == [0] * 8, ended

    reports = sorted((sandbox.volumes["lora"] / "reports").glob("?.json"))
    judged = [one for file in reports for one in json.loads(file.read_text())["adapters"]]
    assert (len(reports), sorted(one["name"] for one in judged)) == (8, sorted(NAMES))
    assert all("LC501" not in {skipped["code"] for skipped in one["skipped"]} for one in judged)  # values too: cached


def test_the_job_tries_the_network_again_and_a_broken_adapter_fails_its_part(sandbox: Sandbox, locked: Locked) -> None:
    configure(sandbox.volumes["set"], locked(*NAMES, "broken"))
    nowhere, hub = "http://127.0.0.1:9", sandbox.environ["HF_ENDPOINT"]
    for name, endpoint, code in (("fetch", nowhere, 4), ("fetch", hub, 0), ("validate", nowhere, 1)):
        environ = {"HF_ENDPOINT": endpoint, "LORA_CLI_RETRIES": "0"}
        part = Sandbox(sandbox.folder, sandbox.volumes, environ, replace={"0/8": "0/1"})
        assert part.run(container("lora-fleet", name)[0])[0] == code


def test_the_container_beside_an_engine_loads_the_set_and_follows_its_config_map(
    sandbox: Sandbox, locked: Locked
) -> None:
    one, _ = container("vllm-loaded", "adapters")
    place = sandbox.volumes["set"]
    configure(place, locked("sql"))
    with Engine() as engine:
        engine.sees = sandbox.volumes["lora"]
        engine.mounted = str(engine.sees) if missing() else "/lora"
        at = Sandbox(sandbox.folder, sandbox.volumes, sandbox.environ, replace={"http://127.0.0.1:8000": engine.url})
        with at.start(one) as process:
            try:
                until_it_works(process, lambda: set(engine.adapters) == {"sql"})
                configure(place, locked("chat", "law"))
                until_it_works(process, lambda: set(engine.adapters) == {"chat", "law"})
            finally:
                process.send_signal(signal.SIGTERM)


@isolated
def test_the_reason_of_a_failure_is_left_for_the_kubelet(sandbox: Sandbox) -> None:
    one, _ = container("vllm", "adapters")
    (sandbox.volumes["set"] / "..data").unlink()

    code, out = sandbox.run(one)

    assert (code, "set.yaml" in sandbox.termination_log) == (3, True), out


def until_it_works(process: "subprocess.Popen[str]", works: Works) -> None:
    until = time.monotonic() + PATIENCE_S
    while not works():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise AssertionError(process.communicate()[0])
        time.sleep(0.1)
