"""``validate --attest`` writes signed verdicts, and a policy with ``require_verdict`` fetches only what passed."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from lora_cli.cli.main import main
from lora_cli.signing.attestation import sign_statements
from lora_cli.signing.sign import SigningKey
from tests.hf_variables import set_variables
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config
from tests.signing.pki import key_pair

HEAD = "apiVersion: lora-cli/v1\nkind: Policy\n"
ATTEST = ["--attest", "verdicts.jsonl", "--key", "ci.key"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "sql", modules=llama_modules())
    write_base_config(tmp_path / "base")
    key_pair(tmp_path, "ci")
    key_pair(tmp_path, "other")
    require()


def require(**keys: str) -> None:
    entry = {"attestations": ["verdicts.jsonl"], "keys": ["ci.pub"], **keys}
    Path("policy.yaml").write_text(f"{HEAD}require_verdict: [{json.dumps(entry)}]\n")


def validate(*more: str, adapter: str = "./sql") -> int:
    return main(["validate", adapter, "--base", "base", *ATTEST, *more])


def fetch(adapter: str = "./sql") -> int:
    return main(["fetch", adapter, "--policy", "policy.yaml"])


def written() -> list[dict[str, Any]]:
    envelopes = [json.loads(line) for line in Path("verdicts.jsonl").read_text().splitlines()]
    return [json.loads(base64.b64decode(envelope["payload"])) for envelope in envelopes]


def test_a_verdict_says_what_was_validated_and_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert validate("--engine", "vllm@0.33", "--format", "json") == 0
    report = json.loads(capsys.readouterr().out)["adapters"][0]
    (statement,) = written()
    predicate = statement["predicate"]
    ours = predicate["lora-cli"]
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert [one["name"] for one in statement["subject"]] == ["adapter_config.json", "adapter_model.safetensors"]
    assert predicate["result"] in {"PASSED", "WARNED"}
    assert "LC301" in predicate["passedTests"]
    assert predicate["failedTests"] == []
    assert ours["snapshot"] == report["digest"]
    assert ours["engines"][0]["engine"] == "vllm"
    assert ours["engines"][0]["version"] == "0.33"
    assert ours["deployment"]["tp"] == 1
    assert {one["code"] for one in ours["findings"]} == {one["code"] for one in report["findings"]}
    (base,) = predicate["configuration"]
    assert base["name"] == "base"
    assert len(base["digest"]["sha256"]) == 64


def test_the_signature_is_one_of_dsse() -> None:
    assert validate() == 0
    envelope = json.loads(Path("verdicts.jsonl").read_text())
    kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    key = load_pem_public_key(Path("ci.pub").read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed, ec.ECDSA(SHA256()))


def test_only_an_adapter_that_passed_is_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    Path("verdicts.jsonl").write_text("")
    assert fetch() == 1
    assert "there is no verdict on the snapshot" in capsys.readouterr().err
    assert validate() == 0
    assert fetch() == 0
    Path("sql/README.md").write_text("# changed\n")
    assert fetch() == 1


def test_the_newest_verdict_counts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    later, real = time.time() + 120, time.gmtime
    assert validate() == 0
    passed = Path("verdicts.jsonl").read_text()
    monkeypatch.setattr(time, "gmtime", lambda at=None: real(later if at is None else at))
    assert validate("--max-lora-rank", "1", "--engine", "vllm") == 1
    (failed,) = written()
    assert failed["predicate"]["result"] == "FAILED"
    assert failed["predicate"]["failedTests"]
    with Path("verdicts.jsonl").open("a") as file:
        file.write(passed)
    assert fetch() == 1
    assert "the newest verdict is FAILED" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [
        ({"keys": ["other.pub"]}, 1, "by an allowed key"),
        ({"keys": ["other.pub", "ci.pub"]}, 0, ""),
        ({"keys": ["none.pub"]}, 2, "none.pub cannot be read"),
        ({"keys": ["ci.key"]}, 2, "is not a public key in PEM"),
        ({"attestations": ["none.jsonl"]}, 2, "none.jsonl cannot be read"),
        ({"engine": "vllm"}, 0, ""),
        ({"engine": "vllm@0.33"}, 0, ""),
        ({"engine": "vllm@0.32"}, 1, "no verdict that vllm@0.32 serves it"),
        ({"engine": "sglang"}, 1, "no verdict that sglang serves it"),
        ({"engine": "vLLM!"}, 2, "an engine"),
        ({"sources": ["hf://acme/*"], "keys": ["other.pub"]}, 0, ""),
        ({"max_age": "1h"}, 0, ""),
        ({"max_age": "soon"}, 2, "is not a duration"),
        ({"keys": []}, 2, "keys"),
    ],
)
def test_a_policy_says_whose_verdict_about_what_counts(
    keys: dict[str, Any], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validate("--engine", "vllm@0.33") == 0
    require(**keys)
    capsys.readouterr()
    assert fetch() == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("days", "code"), [(-3, 1), (-1, 0), (1, 1)])
def test_an_old_verdict_and_one_of_the_future_do_not_count(
    days: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    then = time.time() + days * 86_400
    real = time.gmtime
    with monkeypatch.context() as patched:
        patched.setattr(time, "gmtime", lambda at=None: real(then if at is None else at))
        assert validate() == 0
    require(max_age="2d")
    assert fetch() == code


def changed(line: str, how: str) -> str:
    envelope = json.loads(line)
    payload = base64.b64decode(envelope["payload"])
    if how == "payload":
        payload = payload.replace(b'"WARNED"', b'"PASSED"').replace(b'"version"', b'"Version"')
        envelope["payload"] = base64.b64encode(payload).decode()
    elif how == "type":
        envelope["payloadType"] = "text/plain"
    elif how == "signature":
        envelope["signatures"][0]["sig"] = base64.b64encode(b"0" * 70).decode()
    elif how == "no signature":
        envelope["signatures"] = []
    elif how == "cut":
        return line[:-30]
    return json.dumps(envelope)


@pytest.mark.parametrize("how", ["payload", "type", "signature", "no signature", "cut"])
def test_a_changed_statement_does_not_count(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate() == 0
    line = Path("verdicts.jsonl").read_text().strip()
    hostile = ["", "null", "[]", "{" * 10_000, '{"payload": 7}', '{"payload": "AAAA"}', changed(line, how)]
    Path("verdicts.jsonl").write_text("\n".join(hostile) + "\n")
    assert fetch() == 1
    assert "there is no verdict on the snapshot" in capsys.readouterr().err
    Path("verdicts.jsonl").write_text("\n".join([*hostile, line]) + "\n")
    assert fetch() == 0


def test_each_adapter_of_a_set_has_a_statement(capsys: pytest.CaptureFixture[str]) -> None:
    write_adapter(Path("chat"), modules=llama_modules(), seed=1)
    Path("broken").mkdir()
    assert main(["validate", "./sql", "./chat", "./none", "--base", "base", *ATTEST]) == 3
    assert [one["predicate"]["lora-cli"]["source"].rpartition("/")[2] for one in written()] == ["sql", "chat"]
    assert fetch("./chat") == 0


def test_a_remote_adapter_is_attested_once_it_is_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Hub() as hub:
        set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint)
        commit = hub.add("acme/sql", {path.name: path.read_bytes() for path in Path("sql").iterdir()})
        assert validate(adapter="acme/sql") == 1
        assert "its digest is unknown before it is fetched" in capsys.readouterr().err
        assert not Path("verdicts.jsonl").exists()
        hub.add("acme/run", {f"the best/{path.name}": path.read_bytes() for path in Path("sql").iterdir()})
        assert validate(adapter="hf://acme/run/the best") == 1
        assert "lora-cli fetch 'hf://acme/run/the best', then validate it again" in capsys.readouterr().err
        assert main(["fetch", f"acme/sql@{commit}"]) == 0
        assert validate(adapter=f"acme/sql@{commit}") == 0
        assert fetch(f"acme/sql@{commit}") == 0


def attested(*verdicts: dict[str, Any]) -> None:
    """Writes statements about the snapshot of ``sql``, each like a passed one for vLLM but for what is given."""
    assert validate("--engine", "vllm@0.33") == 0
    (like,) = written()
    statements = []
    for given in verdicts:
        statement = json.loads(json.dumps(like))
        predicate, ours = statement["predicate"], dict(given)
        predicate["result"] = ours.pop("result", "PASSED")
        statement["predicateType"] = ours.pop("predicateType", statement["predicateType"])
        predicate["lora-cli"] |= ours
        statements.append(statement)
    Path("verdicts.jsonl").write_text(sign_statements(statements, SigningKey(Path("ci.key"))))


FAILED = {"result": "FAILED"}


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([{}], 0),
        ([{}, FAILED], 1),
        ([FAILED, {}], 1),  # in the same second
        ([FAILED | {"time": "2026-01-01T00:00:00Z"}, {}], 0),
        ([{}, FAILED | {"time": "2026-01-01T00:00:00+00:00"}], 1),
        ([{}, FAILED | {"time": None}], 1),
        ([{}, FAILED | {"engines": []}], 1),
        ([{}, FAILED | {"engines": [{"engine": "sglang", "version": "0.5", "outcome": "rejects"}]}], 0),
        ([{"time": "2099-01-01T00:00:00Z"}], 1),
        ([{"time": None}], 1),
        ([{"engines": [{"engine": "vllm", "version": "0.33", "outcome": "rejects"}]}], 1),
        ([{"engines": None}], 1),
        ([{"engines": "vllm"}], 1),
        ([{"result": ["PASSED"]}], 1),
        ([{"predicateType": "https://example.com/other/v1"}], 1),
    ],
)
def test_the_newest_verdict_that_can_be_read_counts_and_a_doubtful_failure_does(
    verdicts: list[dict[str, Any]], code: int
) -> None:
    attested(*verdicts)
    require(engine="vllm")
    assert fetch() == code


@pytest.mark.parametrize("option", [["--select", "LC1"], ["--ignore", "LC4"], ["--no-values"]])
def test_a_verdict_is_of_all_rules(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert validate(*option) == 2
    assert "a verdict is of all rules" in capsys.readouterr().err


def test_verdicts_and_a_report_have_files_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert validate("--format", "json=verdicts.jsonl") == 2
    assert "cannot have both verdicts and a report" in capsys.readouterr().err


def test_a_file_of_verdicts_stays_if_nothing_was_validated(capsys: pytest.CaptureFixture[str]) -> None:
    assert validate() == 0
    before = Path("verdicts.jsonl").read_bytes()
    assert validate(adapter="./none") == 3
    assert Path("verdicts.jsonl").read_bytes() == before
    assert "was not written" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--attest", "x.jsonl"], ["--attest", "x.jsonl", "--key", "no.key"]])
def test_a_key_is_needed_before_anything_is_validated(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "./sql", "--base", "base", *argv]) == 2
    assert capsys.readouterr().out == ""
