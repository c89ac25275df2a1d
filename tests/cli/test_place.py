"""``lora-cli place``: options and manifests of each server, which the other commands take."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from lora_cli.cli.main import main
from lora_cli.reading.manifest import read_manifest
from tests.making import write_adapter, write_base_config
from tests.signing.pki import key_pair

RANKS = {"sql": 8, "chat": 8, "law": 64, "code": 64}
SCHEMA = Path(__file__).parents[2] / "manifests/schemas/place.schema.json"
SET = """apiVersion: lora-cli/v1
kind: AdapterSet
base: ./base
engine: {name: vllm, max_loras: 2, max_cpu_loras: 3}
policy: {max_bytes: 1GiB}
adapters:
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    for name, rank in RANKS.items():
        write_adapter(tmp_path / "adapters" / name, r=rank)
    write_base_config(tmp_path / "base")
    entries = "".join(f"  - {{name: {name}, source: ./adapters/{name}}}\n" for name in RANKS)
    (tmp_path / "set.yaml").write_text(SET + entries)
    lines = [("sql", 40), ("law", 30), ("chat", 20), ("code", 10)]
    (tmp_path / "day.jsonl").write_text(
        "".join(
            f'{{"t": {t}, "adapter": "{name}"}}\n' for t in range(3) for name, number in lines for _ in range(number)
        )
    )
    return tmp_path / "set.yaml"


def placed(capsys: pytest.CaptureFixture[str], manifest: Path, *argv: str, code: int = 0) -> dict[str, Any]:
    assert main(["place", "-f", str(manifest), *argv, "--format", "json"]) == code, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    return found


def test_each_server_has_adapters_of_one_rank_its_options_and_its_manifest(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = ["--trace", str(manifest.with_name("day.jsonl"))]
    found = placed(capsys, manifest, "--servers", "2", *trace, "--to", str(manifest.parent / "of" / "servers"))
    assert (found["engine"], found["adapters"], found["requests"]) == ("vllm", 4, 300)
    large, small = found["servers"]
    assert set(large["adapters"]) >= {"law", "code"}
    assert small["adapters"] == ["sql", "chat"]
    assert small["flags"][1:] == ["--max-lora-rank", "8", "--max-loras", "2", "--max-cpu-loras", "2"]
    assert found["strategies"]["rank"]["rank_padding"] < found["strategies"]["round-robin"]["rank_padding"]
    written = manifest.parent / "of" / "servers" / "server-1.yaml"
    assert written.read_text() == small["manifest"]
    document = yaml.safe_load(small["manifest"])
    assert document["engine"] == {"name": "vllm", "max_lora_rank": 8, "max_loras": 2, "max_cpu_loras": 2}
    assert document["policy"] == {"max_bytes": "1GiB"}
    adapter_set = read_manifest(written)
    assert adapter_set.base is not None
    assert Path(adapter_set.base.location).resolve() == (manifest.parent / "base").resolve()
    assert [Path(one.source.location).resolve() for one in adapter_set.adapters] == [
        (manifest.parent / "adapters" / name).resolve() for name in ("sql", "chat")
    ]
    assert main(["inspect", "-f", str(written)]) == 0


def test_a_set_may_be_in_several_files(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In other folders, too: the paths of each are from its own."""
    whole = placed(capsys, manifest, "--servers", "2", "--to", str(manifest.parent / "of"))
    *head, first, second, third, fourth = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join([*head, first, second]))
    other = manifest.parent / "more" / "set.yaml"
    other.parent.mkdir()
    other.write_text("".join([*head, third, fourth]).replace("./", "../"))
    found = placed(capsys, manifest, "-f", str(other), "--servers", "2", "--to", str(manifest.parent / "of"))
    assert found == whole
    assert len(found["servers"][0]["adapters"]) == len(found["servers"][1]["adapters"]) == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: law", "name: sql", "sql is the name of an adapter in"),
        ("max_bytes: 1GiB", "max_bytes: 2GiB", "differ in more than their adapters"),
        ("base: ./base", "base: ./other", "differ in more than their adapters"),
    ],
)
def test_files_of_one_set_differ_in_their_adapters_alone(
    old: str, new: str, said: str, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = manifest.with_name("other.yaml")
    other.write_text(SET.replace(old, new) + "  - {name: law-2, source: ./adapters/law}\n".replace(f"{old}-2", new))
    assert main(["place", "-f", str(manifest), "-f", str(other), "--servers", "2"]) == 2
    assert said in capsys.readouterr().err


def test_words_that_other_readers_of_yaml_guess_stay_as_they_are(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"sql": "2024-01-01", "chat": "0x1F", "law": "010", "code": "1_000"}
    text = manifest.read_text().replace("name: vllm,", "name: vllm, version: 0.30,")
    for old, new in names.items():
        text = text.replace(f"name: {old},", f"name: {new},")
    manifest.write_text(text)
    found = placed(capsys, manifest, "--servers", "1", "--to", str(manifest.parent / "of"))
    assert sorted(found["servers"][0]["adapters"]) == sorted(names.values())
    written = read_manifest(manifest.parent / "of" / "server-0.yaml")
    assert {one.name for one in written.adapters} == {*names.values()}
    assert written.engine is not None
    assert written.engine.version == "0.30"


def test_the_files_of_a_policy_are_found_from_the_folder_of_the_manifests(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key_pair(manifest.parent, "ci")
    others = "sources: ['hf://acme/*'], keys:"
    signed, validated = f"{{{others} [./ci.pub]}}", f"{{{others} [/etc/ci.pub], attestations: [a.jsonl]}}"
    policy = f"{{require_signature: [{signed}], require_verdict: [{validated}]}}"
    text = manifest.read_text()
    manifest.write_text(text.replace("policy: {max_bytes: 1GiB}", f"policy: {policy}"))
    assert text != manifest.read_text()
    placed(capsys, manifest, "--servers", "1", "--to", str(manifest.parent / "of"))
    written = read_manifest(manifest.parent / "of" / "server-0.yaml").policy
    assert written is not None
    (signature,), (verdict,) = written.require_signature, written.require_verdict
    assert [Path(key).resolve() for key in signature.keys] == [manifest.parent / "ci.pub"]
    assert verdict.keys == ("/etc/ci.pub",)
    assert [Path(file).resolve() for file in verdict.attestations] == [manifest.parent / "a.jsonl"]


def test_people_see_the_strategies_and_the_options(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["place", "-f", str(manifest), "--servers", "2", "--engine", "sglang"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["rank", "round-robin", "hash"]
    assert "--max-loras-per-batch" in out
    assert "the same for all adapters" in out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("server ")] == ["names"]


def test_a_goal_that_slots_do_not_reach_is_1(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--servers", "1", "--trace", str(manifest.with_name("day.jsonl")), "--hit-ratio", "0.99"]
    assert placed(capsys, manifest, *argv, "--max-loras", "4")["servers"][0]["max_loras"] == 4
    assert placed(capsys, manifest, *argv, code=1)["strategies"]["rank"]["misses_goal"] == 1
    assert main(["place", "-f", str(manifest), *argv]) == 1
    assert "failed: 1 server of 1 cannot reach --hit-ratio 0.99" in capsys.readouterr().err
    assert placed(capsys, manifest, *argv[:-1], "0.1")["servers"][0]["max_loras"] == 1


def test_more_servers_than_adapters_leave_some_empty(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    servers = placed(capsys, manifest, "--servers", "40")["servers"]
    assert len(servers) == 40
    empty = [one for one in servers if not one["adapters"]]
    assert all((one["manifest"], one["flags"], one["max_loras"]) == ("", [], 0) for one in empty)


@pytest.mark.parametrize(
    ("argv", "said", "code"),
    [
        (["--engine", "peft"], "the options of PEFT are unknown", 2),
        (["--trace", "none.jsonl"], "none.jsonl: trace not found", 3),
        (["--trace", "other.jsonl"], "other.jsonl: sq is not in the manifest\nhint: did you mean sql?", 2),
        (["--hit-ratio", "1.5"], "--hit-ratio", 2),
        (["-f", "-"], "place needs a manifest in a file", 2),
        (["-f", "big.yaml"], "big has rank 1024, and vLLM has at most 512", 2),
    ],
)
def test_what_cannot_be_placed_is_one_message(
    argv: list[str],
    said: str,
    code: int,
    manifest: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(manifest.parent)
    Path("other.jsonl").write_text('{"adapter": "sq"}\n')
    write_adapter(Path("big"), r=1024)
    Path("big.yaml").write_text(SET + "  - {name: big, source: ./big}\n")
    assert main(["place", "-f", str(manifest), "--servers", "2", *argv]) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("error: ") == 1
