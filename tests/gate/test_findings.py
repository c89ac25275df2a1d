"""A gate never says ok of what it did not look at: each case is one that a new user ran into."""

import json
import math
import re
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.cli.output import VALIDATE_FORMATS
from tests.gate.walk import (
    BASE,
    HEAD,
    MODULES,
    WEIGHTS,
    Capture,
    Origins,
    codes,
    contents,
    judged,
    outcomes,
    planted,
    text,
    write_set,
)
from tests.hub_server import Hub
from tests.making import Raw, base_config, llama_modules, lora_tensors, write_adapter, write_base_config
from tests.object_servers import S3Server

SOME = {"a24": "./adapters/a24"}


def test_c1_values_of_remote_adapters_are_read(origins: Origins, capsys: Capture) -> None:
    refs = [origins.sources["a17"], origins.sources["a19"], "acme/a20"]
    found = judged(capsys, 1, *refs)
    assert [one["outcome"] for one in found.values()] == ["refused", "refused", "ok"]
    assert all("LC501" not in {skipped["code"] for skipped in one["skipped"]} for one in found.values())
    asked = origins.hub.count("GET cdn")
    assert main(["fetch", "acme/a20"]) == 0
    assert origins.hub.count("GET cdn") == asked, "what was judged is in the cache"


def test_c1_what_is_too_large_to_be_read_is_unchecked(
    origins: Origins, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("LORA_CLI_MAX_BYTES", "4KiB")
    argv = [origins.sources["a17"], "acme/a20"]
    assert {*outcomes(capsys, 0, *argv).values()} == {"unchecked"}
    assert {*outcomes(capsys, 1, *argv, "--strict").values()} == {"unchecked"}
    assert "2 unchecked" in text(capsys, 0, "validate", *argv)


def test_c1_a_pickled_adapter_is_judged_and_not_refused_unread(origins: Origins, capsys: Capture) -> None:
    files = contents(planted(Path("pickled")))
    files["adapter_model.bin"] = b"cos\nsystem\n(S'id'\ntR."
    del files[WEIGHTS]
    origins.hub.add("acme/pickled", files)
    (one,) = judged(capsys, 1, "acme/pickled").values()
    assert (one["outcome"], one["error"], "LC108" in codes(one)) == ("refused", None, True)


def test_m1_each_adapter_is_judged_against_its_own_base(origins: Origins, capsys: Capture) -> None:
    origins.hub.add("acme/wide", {"config.json": base_config(hidden_size=128, head_dim=16)})
    wide = {path: (128, d_out) for path, (_, d_out) in MODULES.items()}
    write_adapter(Path("wide"), modules=wide, config={"base_model_name_or_path": "acme/wide"})
    found = judged(capsys, 0, "acme/a20", "wide", origins.sources["a11"])
    assert [one["base"] for one in found.values()] == [BASE, "acme/wide", "acme/other"]
    assert {one["outcome"] for one in found.values()} == {"ok"}
    assert [one["applied"]["matched"] for one in found.values()] == [4, 4, 4]
    assert codes(judged(capsys, 1, "wide", "--base", BASE)["wide"]) >= {"LC314"}


UNREADABLE = {"acme/gated": 3, "acme/down": 4, "./nowhere": 3}
"""Names of bases that cannot be read, with the exit code where one is named."""


@pytest.mark.parametrize("base", [*UNREADABLE, None])
def test_m1_a_base_that_cannot_be_read_must_be_there_if_it_was_named_and_else_is_unchecked(
    base: str | None, origins: Origins, capsys: Capture
) -> None:
    origins.hub.add("acme/gated", {"config.json": base_config()}, gated=True)
    origins.hub.fault("acme/down", status=503, times=-1)
    planted(Path("odd"), base_model_name_or_path=base)
    for words, code in (([], 0), (["--strict"], 4 if base == "acme/down" else 1)):
        found = judged(capsys, code, "adapters/a24", "odd", "--engine", "vllm", *words)
        assert [one["outcome"] for one in found.values()] == ["ok", "unchecked"]
        assert [one["engines"][0]["outcome"] for one in found.values()] == ["ok", "unknown"]
        assert [one["base"] for one in found.values()] == [BASE, None]
    shown = text(capsys, 0, "validate", "odd")
    assert "base unchecked" in shown
    assert ("--base DIR" in shown) or base != "acme/gated"
    planted(Path("odd"), "a19", base_model_name_or_path=base)
    assert outcomes(capsys, 1, "odd") == {"odd": "refused"}, "what can be checked still refuses"
    if base is not None:
        assert main(["validate", "adapters/a24", "--base", base]) == UNREADABLE[base]
        write_set(SOME, HEAD.replace(f"hf://{BASE}", base))
        assert main(["validate", "-f", "set.yaml"]) == UNREADABLE[base]


def test_m7_an_unpinned_base_is_no_finding_until_somebody_asks(
    origins: Origins, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    for name in VALIDATE_FORMATS:
        assert "LC605" not in text(capsys, 0, "validate", "adapters/a24", "acme/a20", "--format", name), name
    assert "LC605" not in Path("summary.md").read_text()
    assert "LC605" in text(capsys, 0, "validate", "adapters/a24", "--select", "LC605")
    Path("policy.yaml").write_text("apiVersion: lora-cli/v1\nkind: Policy\nrequire_pinned: true\n")
    pinned = f"acme/a20@{origins.hub.commit('acme/a20').id}"
    assert "LC605" in text(capsys, 0, "validate", pinned, "--base", "none", "--policy", "policy.yaml")


def test_m9_a_lock_has_the_base_of_the_manifest_and_its_config_or_is_drift(
    origins: Origins, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """With it neither a request nor the cache is needed for the base."""
    sources = SOME | {"a29": "adapters/a29"}
    write_set(sources, HEAD.partition("base")[0])
    assert main(["fetch", "-f", "set.yaml"]) == 0
    write_set(sources)
    for word in ("--locked", "--check"):
        assert "the base" in text(capsys, 1, "fetch", "-f", "set.yaml", word)
    assert main(["fetch", "-f", "set.yaml"]) == 0
    assert main(["fetch", "-f", "set.yaml", "--check"]) == 0
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(Path.cwd() / "empty"))
    before = len(origins.hub.requests)
    found = judged(capsys, 1, "-f", "set.yaml", "--offline")
    assert [one["outcome"] for one in found.values()] == ["ok", "refused"]
    assert all(BASE in one["base"] for one in found.values())
    assert found["a24"]["applied"] == {"matched": 4, "total": 4}
    assert main(["fetch", "-f", "set.yaml", "--locked", "--publish", "served", "--keep-going"]) == 0
    assert {path.name for path in Path("served").iterdir()} == {"a24"}
    assert len(origins.hub.requests) == before


def test_m10_an_adapter_that_changed_since_the_lock_is_judged_beside_the_drift(
    rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    place = rclone_server.place()
    rclone_server.put(place, {f"sql/{name}": data for name, data in contents(planted(Path("local"))).items()})
    write_set({"local": "./local", "bucket": f"s3://{place}/sql"})
    assert main(["fetch", "-f", "set.yaml"]) == 0
    rclone_server.put(place, {f"sql/{name}": data for name, data in contents(planted(Path("local"), "a19")).items()})
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "empty"))
    for one in judged(capsys, 1, "-f", "set.yaml").values():
        assert "LC501" in codes(one), one["name"]
        assert WEIGHTS in one["error"]["message"], one["name"]
    shown = text(capsys, 1, "validate", "-f", "set.yaml")
    assert "LC501" in shown
    assert "locked" in shown


def scaled(by: float, layers: int = 2) -> dict[str, tuple[int, int]]:
    modules = llama_modules(["q_proj", "v_proj"], layers)
    return {path: (int(d_in * by), int(d_out * by)) for path, (d_in, d_out) in modules.items()}


GPT2 = {f"transformer.h.{layer}.attn.c_attn": (64, 192) for layer in range(2)}
CAUSES: dict[str, tuple[dict[str, tuple[int, int]], str, list[str]]] = {
    "other names": (GPT2, "LC311", ["vllm", "sglang", "peft"]),
    "some other names": (MODULES | GPT2, "LC311", ["vllm", "sglang"]),
    "more layers": (scaled(1, layers=4), "LC311", ["vllm", "sglang"]),
    "narrower": (scaled(0.5), "LC314", ["vllm", "sglang"]),
    "wider": (scaled(2), "LC314", ["vllm", "sglang"]),
    "twice": (MODULES, "LC303", ["sglang"]),
}


@pytest.mark.parametrize(
    ("kind", "engine"),
    [pytest.param(kind, engine, id=f"{kind} {engine}") for kind in CAUSES for engine in CAUSES[kind][2]],
)
def test_m11_ignoring_a_cause_brings_up_no_second_code(kind: str, engine: str, capsys: Capture) -> None:
    modules, code, _ = CAUSES[kind]
    twice = lora_tensors(modules, prefix="base_model.model.", seed=1) if kind == "twice" else {}
    write_adapter(Path("x"), modules=modules, tensors={key.replace("_A", "_A.default"): twice[key] for key in twice})
    argv = ["x", "--base", str(write_base_config(Path("base"))), "--engine", engine]

    def counting(code: int, *words: str) -> set[str]:
        (one,) = judged(capsys, code, *argv, *words).values()
        return {found["code"] for found in one["findings"] if found["severity"] == "error" and not found["accepted"]}

    assert counting(1) == {code}
    assert counting(0, "--ignore", code) == set()
    assert main(["validate", *argv, "--select", code, "--write-baseline", "known.json"]) == 0
    assert counting(0, "--baseline", "known.json") == set()
    assert outcomes(capsys, 0, *argv, "--baseline", "known.json") == {"x": "accepted"}


UNKNOWN = (["--engine", "vllm@0.1"], ["--engine", "vllm", "--base", "none"], ["--engine", "vllm", "--no-values"])
SAID = {
    "human": (r"unchecked +unknown", r"unchecked +unknown"),
    "json": (r'"outcome": "unknown"', r'"outcome": "unchecked"'),
    "junit": (r"vLLM [\d.]+: unknown", r'<failure type="unchecked" message=".+'),
    "github": (r"1 adapter: 1 unchecked", r"::error .*title=unchecked.*::.+"),
}
"""In each format without and with ``--strict``."""


@pytest.mark.parametrize("words", UNKNOWN)
def test_what_an_engine_does_is_unknown_in_every_format(words: list[str], capsys: Capture) -> None:
    for name, both in SAID.items():
        for code, said in enumerate(both):
            shown = text(capsys, code, "validate", "adapters/a24", *words, *["--strict"] * code, "--format", name)
            assert re.search(said, shown), shown


@pytest.mark.slow
@pytest.mark.parametrize("command", [["validate"], ["inspect"], ["fetch", "--dry-run"]], ids=lambda one: one[0])
def test_an_origin_that_never_answers_ends_one_adapter_and_not_the_others(
    command: list[str], origins: Origins, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("LORA_CLI_ADAPTER_TIMEOUT", "3s")
    origins.hub.fault("/api/models/acme/a21", delay_s=30, times=-1)
    shown = text(capsys, 4, *command, "acme/a20", "acme/a21")
    origins.hub.faults.clear()
    assert ("a21 is not complete after 3 s" in shown, "a20 is not complete" in shown) == (True, False)


@pytest.mark.parametrize(
    ("name", "data"),
    [("adapter.gguf", b"GGUF" + bytes(60)), ("pytorch_lora_weights.bin", b"cos\nsystem\n(S'id'\ntR.")],
)
def test_weights_of_another_format_in_a_folder_are_refused_and_a_base_model_is_not_judged(
    name: str, data: bytes, capsys: Capture
) -> None:
    write_base_config(Path("team/model"))
    planted(Path("team/good"))
    Path("team/model/model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    Path("team/foreign").mkdir()
    Path("team/foreign", name).write_bytes(data)
    none = ["--base", "none"]
    assert outcomes(capsys, 1, "team", *none) == {"team/foreign": "refused", "team/good": "ok"}
    assert outcomes(capsys, 1, "--changed-files", f"team/foreign/{name}", *none) == {"team/foreign": "refused"}
    assert main(["init", "team"]) == 1
    assert Path("set.yaml").read_text().count("source:") == 1


def test_what_was_not_read_is_unchecked_whatever_is_ignored(origins: Origins, capsys: Capture) -> None:
    assert [*outcomes(capsys, 0, "adapters/a29", "--ignore", "LC102").values()] == ["unchecked"]
    away = str(planted(Path("away"), base_model_name_or_path="acme/nothing"))
    assert [*outcomes(capsys, 0, away, "--strict", "--select", "LC1").values()] == ["ok"]
    assert main(["fetch", "./away", "--publish", "served", "--format", "json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["adapters"]
    assert "base unchecked" in one["warnings"][0]
    ones = {
        name: Raw("F8_E4M3", one.shape, b"\x38" * math.prod(one.shape)) for name, one in lora_tensors(MODULES).items()
    }
    write_adapter(Path("narrow"), modules=MODULES, r=4, tensors=ones)
    (one,) = judged(capsys, 1, "narrow", "--base", "none", "--strict").values()
    assert "LC505" in {skipped["code"] for skipped in one["skipped"]}


def test_what_the_cache_has_of_an_earlier_revision_is_not_all_that_is_judged(tmp_path: Path, capsys: Capture) -> None:
    files = contents(write_adapter(tmp_path / "sql"))
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add("acme/grows", {"adapter_config.json": files["adapter_config.json"]})
        assert main(["fetch", "acme/grows"]) == 0
        hub.add("acme/grows", files)
        hub.fault("GET cdn", flip_at=7, times=-1)
        assert "sha256" in text(capsys, 5, "validate", "acme/grows", "--base", "none")
