"""It is told who signed an adapter and who validated it, if a policy requires that; a verdict has the proof of warm."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.making import llama_modules, write_adapter, write_base
from tests.signing.pki import key_pair
from tests.signing.test_verdicts import written

pytestmark = pytest.mark.usefixtures("copied_processes")

HEAD = "apiVersion: lora-cli/v1\nkind: Policy\n"
SHOW, INSPECT = ["cache", "show", "./sql"], ["inspect", "./sql"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signed adapter in the cache, with a verdict, and a policy that requires both."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "sql", modules=llama_modules())
    write_base(tmp_path / "base")
    for name in ("acme", "ci", "other"):
        key_pair(tmp_path, name)
    assert main(["sign", "sql", "--key", "acme.key"]) == 0
    attest = ["--attest", "verdicts.jsonl", "--key", "ci.key"]
    assert main(["validate", "./sql", "--base", "base", "--engine", "vllm@0.33", "--engine", "peft", *attest]) == 0
    verdict = {"attestations": ["verdicts.jsonl"], "keys": ["ci.pub"]}
    require(require_signature=[{"keys": ["acme.pub"]}], require_verdict=[verdict])
    assert main(["fetch", "./sql", "--policy", "policy.yaml"]) == 0


def require(**rules: list[dict[str, Any]]) -> None:
    Path("policy.yaml").write_text(HEAD + "".join(f"{key}: {json.dumps(value)}\n" for key, value in rules.items()))


def told(argv: list[str], capsys: pytest.CaptureFixture[str], *more: str) -> tuple[str, Any]:
    """What the terminal and JSON say."""
    capsys.readouterr()
    assert main([*argv, *more]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert main([*argv, *more, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (one,) = document["snapshots"][0]["references"] if argv is SHOW else document["adapters"]
    return words, one.get("provenance")


@pytest.mark.parametrize("argv", [SHOW, INSPECT], ids=["show", "inspect"])
def test_who_signed_and_who_validated_it_when_and_for_which_engine(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words, provenance = told(argv, capsys, "--policy", "policy.yaml")
    assert "signed the key acme.pub" in words
    assert "by the key ci.pub at 20" in words
    assert "vllm 0.33: ok" in words
    assert provenance["signers"] == ["the key acme.pub"]
    (verdict,) = provenance["verdicts"]
    assert (verdict["by"], verdict["base"], verdict["result"] in {"PASSED", "WARNED"}) == ("ci.pub", "base", True)
    assert verdict["engines"][0] == {"engine": "vllm", "version": "0.33", "outcome": "ok"}
    assert verdict["time"].endswith("Z")
    assert provenance["refusal"] == ""


@pytest.mark.parametrize("argv", [SHOW, INSPECT], ids=["show", "inspect"])
def test_what_no_policy_verifies_is_not_told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words, provenance = told(argv, capsys)
    assert "signed" not in words
    assert provenance is None
    require(require_signature=[{"sources": ["hf://*"], "keys": ["acme.pub"]}])
    assert told(argv, capsys, "--policy", "policy.yaml")[1] is None


def test_a_snapshot_that_a_policy_refuses_is_shown_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    require(require_signature=[{"keys": ["other.pub"]}])
    words, provenance = told(SHOW, capsys, "--policy", "policy.yaml")
    assert "refused" in words
    assert "the key other.pub did not make it" in words
    assert provenance["signers"] == []
    assert "the key other.pub did not make it" in provenance["refusal"]


@pytest.mark.parametrize("argv", [SHOW, INSPECT], ids=["show", "inspect"])
def test_a_verdict_that_is_missing_is_told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("verdicts.jsonl").write_text("")
    words, provenance = told(argv, capsys, "--policy", "policy.yaml")
    assert "refused" in words
    assert "there is no verdict" in provenance["refusal"]
    assert provenance["verdicts"] == []


def test_files_that_globs_selected_are_not_verified(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "rm", "--all", "--yes"]) == 0
    assert main(["fetch", "./sql", "--include", "*.txt"]) == 0
    assert told(SHOW, capsys, "--policy", "policy.yaml")[1] is None


@pytest.mark.slow
def test_warm_says_whose_verdict_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    warm = ["warm", "./sql", "--base", "base", "--once", "--device", "cpu", "--policy", "policy.yaml"]
    capsys.readouterr()
    assert main([*warm, "--format", "json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["adapters"]
    assert report["judged_elsewhere"] is True
    assert report["applied"]
    assert report["proof"]["holds"]
    assert report["provenance"]["signers"] == ["the key acme.pub"]
    assert main(warm) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "signed by the key acme.pub; " in words
    assert "not validated again" in words


def prove(capsys: pytest.CaptureFixture[str], *more: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    warm = ["warm", "./sql", "--base", "base", "--once", "--device", "cpu", "--format", "json"]
    assert main([*warm, *more]) == code
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    Path("warm.json").write_text(json.dumps(report))
    return report


def attest(*more: str) -> int:
    argv = ["validate", "./sql", "--base", "base", "--engine", "vllm@0.33", "--attest", "verdicts.jsonl"]
    return main([*argv, "--key", "ci.key", "--proofs", "warm.json", *more])


@pytest.mark.slow
def test_the_proof_of_warm_is_in_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    proved = prove(capsys, "--forward", "model")["adapters"][0]
    assert attest() == 0
    (statement,) = written()
    proof = statement["predicate"]["lora-cli"]["proof"]
    assert (proof["holds"], proof["weights"], proof["error"]) == (True, "base", "")
    assert proof["modules"] == len(proved["proof"]["modules"]) > 1
    assert proof["worst"] in proved["proof"]["modules"]
    assert proof["moved"] == proved["moved"] is not None
    assert main(["fetch", "./sql", "--policy", "policy.yaml"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"proof": None, "error": "out of memory"}, {"error": "no"}, {"proof": "refuted"}])
def test_an_adapter_whose_proof_does_not_hold_has_failed(
    change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    report = prove(capsys)
    one = report["adapters"][0]
    if change.get("proof") == "refuted":
        one["proof"]["modules"][1]["error"] = None  # NaN
        change = {"proof": {**one["proof"], "holds": False}}
    one.update(change)
    Path("warm.json").write_text(json.dumps(report))
    assert attest() == 0
    assert written()[0]["predicate"]["result"] == "FAILED"
    assert main(["fetch", "./sql", "--policy", "policy.yaml"]) == 1
    assert "the newest verdict is FAILED" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("failed", [0, 1])
def test_of_two_proofs_of_the_same_files_the_one_that_does_not_hold_counts(
    failed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    report = prove(capsys)
    report["adapters"] *= 2
    report["adapters"][failed] = {**report["adapters"][failed], "error": "no"}
    Path("warm.json").write_text(json.dumps(report))
    assert attest() == 0
    assert written()[0]["predicate"]["result"] == "FAILED"


@pytest.mark.slow
def test_an_adapter_that_was_not_proved_has_no_proof(capsys: pytest.CaptureFixture[str]) -> None:
    report = prove(capsys)
    report["adapters"][0]["digest"] = "0" * 64
    Path("warm.json").write_text(json.dumps(report))
    assert attest() == 0
    assert written()[0]["predicate"]["lora-cli"]["proof"] is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "{" * 10_000, '{"schema": "lora_cli/warm/1", "adapters": [7]}', '{"schema": 1, "adapters": []}'],
)
def test_any_other_file_is_no_report_of_warm(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("warm.json").write_text(text)
    assert attest() == 2
    assert "warm.json is not a report of warm --once" in capsys.readouterr().err


@pytest.mark.slow
def test_a_proof_on_another_base_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    report = prove(capsys)
    for digest in (None, "0" * 64):
        Path("warm.json").write_text(json.dumps({**report, "base_sha256": digest}))
        assert attest() == 2
        assert "is not a report of warm --once on this base" in capsys.readouterr().err
    assert main(["validate", "./sql", "--base", "base", "--proofs", "warm.json"]) == 2
    assert "--proofs belongs to --attest" in capsys.readouterr().err
