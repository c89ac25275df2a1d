"""Somebody's manifest fetches a well-known reference from a server of theirs, into a cache that others use too."""

import hashlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.reading.manifest import read_lock
from lora_cli.store import Store
from lora_cli.store.resolution_records import all_records, forget_record, write_record
from tests.attacks.lying_s3 import lying_s3
from tests.hub_content import Commit, entry
from tests.hub_server import Hub
from tests.making import lora_config, lora_tensors, safetensors_bytes, write_adapter
from tests.object_servers import S3Server

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Capture = pytest.CaptureFixture[str]
MODULES = ["model.layers.0.self_attn.q_proj"]


def weights(seed: int) -> bytes:
    return safetensors_bytes(lora_tensors(dict.fromkeys(MODULES, (8, 8)), r=4, seed=seed))


HONEST = {CONFIG: json.dumps(lora_config(["q_proj"])).encode(), WEIGHTS: weights(1)}
EVIL = {**HONEST, WEIGHTS: weights(2)}


def write_set(path: str, source: str, *, endpoint: str = "", more: str = "") -> None:
    rule = (
        f'sources: [{{match: "{source.partition("@")[0]}*", endpoint_url: "{endpoint}"{more}}}]\n' if endpoint else ""
    )
    text = f'apiVersion: lora-cli/v1\nkind: AdapterSet\n{rule}adapters: [{{name: pirate, source: "{source}"}}]\n'
    Path(path).write_text(text)


@dataclass(frozen=True)
class Victim:
    """A reference that an honest server has, pinned where it can be, and a server that lies about it."""

    ref: str
    pinned: str
    evil: str
    rule: str
    variable: str

    def plant(self) -> None:
        """What the attacker has others do: fetch a manifest of theirs."""
        for ref in {self.ref, self.pinned}:
            write_set("foreign.yaml", ref, endpoint=self.evil, more=self.rule)
            assert main(["fetch", "-f", "foreign.yaml"]) == 0


@pytest.fixture(autouse=True)
def a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    monkeypatch.setenv("LORA_CLI_TIMEOUT", "5s")
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "first"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["hub", "s3"])
def victim(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Victim]:
    """Its honest lock is ``set.lock.yaml``; the cache that is used from then on is empty."""
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("seaweed_server")
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        bucket = server.bucket()
        server.put(bucket, {f"pirate/{path}": data for path, data in HONEST.items()})
        listed = {f"pirate/{path}": (hashlib.md5(HONEST[path]).hexdigest(), EVIL[path]) for path in HONEST}
        ref = f"s3://{bucket}/pirate"
        with lying_s3(bucket, listed) as endpoint:
            locked(ref, tmp_path, monkeypatch)
            yield Victim(ref, ref, endpoint, ", anonymous: true", "AWS_ENDPOINT_URL")
        return
    with Hub() as honest, Hub() as evil:
        commit = honest.add("acme/pirate", HONEST)
        evil.add("acme/pirate", EVIL)
        repo = evil.repos["acme/pirate"]
        repo.commits = {commit: Commit(commit, {path: entry(path, data) for path, data in EVIL.items()})}
        repo.branches = {"main": commit}
        monkeypatch.setenv("HF_ENDPOINT", honest.endpoint)
        ref = "hf://acme/pirate"
        locked(ref, tmp_path, monkeypatch)
        yield Victim(ref, f"{ref}@{commit}", evil.endpoint, "", "HF_ENDPOINT")


def locked(ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set("set.yaml", ref)
    assert main(["fetch", "-f", "set.yaml"]) == 0
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))


def handed_out(capsys: Capture, *argv: str) -> bytes:
    """The weights that ``fetch`` hands out."""
    capsys.readouterr()
    assert main(["fetch", *argv]) == 0
    return Path(capsys.readouterr().out.strip(), WEIGHTS).read_bytes()


def test_the_locked_bytes_are_handed_out_or_nothing(victim: Victim, capsys: Capture) -> None:
    victim.plant()
    assert handed_out(capsys, "-f", "set.yaml", "--locked") == HONEST[WEIGHTS]
    assert handed_out(capsys, "-f", "set.yaml") == HONEST[WEIGHTS]
    assert handed_out(capsys, "-f", "set.yaml", "--locked", "--offline") == HONEST[WEIGHTS]


def test_a_lock_pinned_in_the_manifest_is_held_too(victim: Victim, capsys: Capture) -> None:
    write_set("pinned.yaml", victim.pinned)
    assert main(["fetch", "-f", "pinned.yaml"]) == 0
    assert main(["cache", "rm", victim.pinned]) == 0
    victim.plant()
    assert handed_out(capsys, "-f", "pinned.yaml", "--locked") == HONEST[WEIGHTS]


def test_a_reference_means_what_its_own_server_says(victim: Victim, capsys: Capture) -> None:
    victim.plant()
    assert handed_out(capsys, victim.pinned) == HONEST[WEIGHTS]
    assert handed_out(capsys, victim.ref) == HONEST[WEIGHTS]
    assert handed_out(capsys, victim.ref, "--offline") == HONEST[WEIGHTS]


def test_a_new_lock_is_of_the_honest_bytes(victim: Victim) -> None:
    victim.plant()
    write_set("new.yaml", victim.ref)
    assert main(["fetch", "-f", "new.yaml"]) == 0
    adapter = read_lock(Path("new.lock.yaml")).adapter("pirate")
    assert adapter is not None
    assert adapter.files[WEIGHTS].sha256 == hashlib.sha256(HONEST[WEIGHTS]).hexdigest()


def test_offline_another_servers_word_is_not_used_and_the_message_names_it(victim: Victim, capsys: Capture) -> None:
    victim.plant()
    for ref in (victim.ref, victim.pinned):
        capsys.readouterr()
        assert main(["fetch", ref, "--offline"]) == 3
        said = capsys.readouterr().err
        assert victim.evil in said
        assert victim.variable in said


def test_what_is_looked_at_without_fetching_is_the_honest_one(victim: Victim, capsys: Capture) -> None:
    victim.plant()
    for ref in (victim.ref, victim.pinned):
        capsys.readouterr()
        assert main(["inspect", ref, "--format", "json"]) == 0
        (found,) = json.loads(capsys.readouterr().out)["adapters"]
        assert not found.get("snapshot")
    assert main(["inspect", victim.ref, "--offline"]) == 3


def test_require_sha256_and_require_pinned_do_not_let_it_through(victim: Victim, capsys: Capture) -> None:
    Path("policy.yaml").write_text("apiVersion: lora-cli/v1\nkind: Policy\nrequire_sha256: true\n")
    victim.plant()
    assert handed_out(capsys, "-f", "set.yaml", "--locked", "--policy", "policy.yaml") == HONEST[WEIGHTS]


@pytest.mark.parametrize("victim", ["hub"], indirect=True)
def test_check_and_verify_say_that_two_servers_contradict_each_other(victim: Victim, capsys: Capture) -> None:
    """Two buckets of one name on two servers may differ; only a commit names its bytes."""
    victim.plant()
    capsys.readouterr()
    assert main(["fetch", "-f", "set.yaml", "--check"]) == 1
    said = capsys.readouterr().out
    assert WEIGHTS in said
    assert victim.evil in said
    assert main(["fetch", "-f", "set.yaml", "--locked"]) == 0
    capsys.readouterr()
    assert main(["cache", "verify"]) == 5
    assert victim.evil in capsys.readouterr().out
    assert main(["cache", "verify", "--format", "json"]) == 5
    rotten = json.loads(capsys.readouterr().out)["rotten"]
    assert {one["kind"] for one in rotten} == {"record"}
    for ref in (victim.ref, victim.pinned):
        main(["cache", "rm", ref])
    assert main(["cache", "verify"]) == 0
    assert main(["fetch", "-f", "set.yaml", "--check"]) == 0


def test_a_mirror_of_the_same_bytes_costs_no_second_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub() as one, Hub() as mirror:
        one.add("acme/pirate", HONEST)
        mirror.add("acme/pirate", HONEST)
        monkeypatch.setenv("HF_ENDPOINT", one.endpoint)
        assert main(["fetch", "acme/pirate"]) == 0
        monkeypatch.setenv("HF_ENDPOINT", mirror.endpoint)
        assert main(["fetch", "acme/pirate"]) == 0
        assert mirror.count("GET cdn") == 0
        assert main(["cache", "verify"]) == 0


def test_a_lock_that_somebody_wrote_says_nothing_of_what_a_server_has(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    with Hub() as honest:
        commit = honest.add("acme/pirate", HONEST)
        honest.add("evil/pirate", EVIL)
        monkeypatch.setenv("HF_ENDPOINT", honest.endpoint)
        write_set("foreign.yaml", "hf://evil/pirate")
        assert main(["fetch", "-f", "foreign.yaml"]) == 0
        lock = Path("foreign.lock.yaml").read_text()
        evil_commit = honest.commit("evil/pirate").id
        Path("foreign.lock.yaml").write_text(lock.replace("evil/pirate", "acme/pirate").replace(evil_commit, commit))
        write_set("foreign.yaml", "hf://acme/pirate")
        main(["fetch", "-f", "foreign.yaml", "--locked"])
        for ref in (f"acme/pirate@{commit}", "acme/pirate"):
            assert handed_out(capsys, ref) == HONEST[WEIGHTS]
        assert handed_out(capsys, "acme/pirate", "--offline") == HONEST[WEIGHTS]


def test_half_a_download_of_another_server_is_not_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """S3 lists no digest: nothing else tells whose first bytes they are."""
    size = 3_000_000
    listed = {
        fill: {"pirate/" + CONFIG: ("c", HONEST[CONFIG]), "pirate/" + WEIGHTS: ("w", fill * size)}
        for fill in (b"h", b"e")
    }
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with lying_s3("acme", listed[b"h"]) as honest, lying_s3("acme", listed[b"e"], sent=2_000_000) as evil:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", evil)
        assert main(["fetch", "s3://acme/pirate"]) == 4
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", honest)
        assert handed_out(capsys, "s3://acme/pirate") == b"h" * size


def test_the_server_of_another_profile_is_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    with (
        lying_s3("acme", {f"pirate/{path}": ("tag", data) for path, data in HONEST.items()}) as honest,
        lying_s3("acme", {f"pirate/{path}": ("tag", data) for path, data in EVIL.items()}) as evil,
    ):
        profiles = "".join(
            f"[profile {name}]\nendpoint_url = {endpoint}\naws_access_key_id = key\naws_secret_access_key = secret\n"
            for name, endpoint in (("honest", honest), ("evil", evil))
        )
        (tmp_path / "aws").write_text(profiles)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
        for name, files in (("evil", EVIL), ("honest", HONEST)):
            monkeypatch.setenv("AWS_PROFILE", name)
            assert handed_out(capsys, "s3://acme/pirate") == files[WEIGHTS]
            assert handed_out(capsys, "s3://acme/pirate", "--offline") == files[WEIGHTS]


def test_a_planted_record_sends_no_credentials_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for name, value in {"CACHE_DIR": str(tmp_path / "cache"), "RETRIES": "0", "TIMEOUT": "1s"}.items():
        monkeypatch.setenv(f"LORA_CLI_{name}", value)
    store = Store(tmp_path / "cache")
    assert main(["fetch", str(write_adapter(tmp_path / "sql"))]) == 0
    (record,) = all_records(store)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        server = f"127.0.0.1:{listener.getsockname()[1]}"
        write_record(store, replace(record, ref=f"fsspec+s3://{server}/share/sql", endpoint=""))
        forget_record(store, record)
        store.snapshot(record.snapshot).joinpath(CONFIG).unlink()
        store.blob(record.files[CONFIG].sha256).unlink()
        assert main(["cache", "verify", "--repair"]) == 5
        assert "are not sent to fsspec+s3://127.0.0.1" in " ".join(capsys.readouterr().out.split())
        with pytest.raises(BlockingIOError):
            listener.accept()
