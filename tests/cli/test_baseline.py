"""What does not count: a baseline of known findings, and a policy's suppressions."""

import json
from pathlib import Path

import numpy as np
import pytest

from lora_cli.cli.main import main
from tests.making import llama_modules, lora_tensors, raw, write_adapter, write_base_config

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``bad`` (LC302), ``loud`` (LC504, a warning) and their base."""
    monkeypatch.chdir(tmp_path)
    write_base_config(tmp_path / "base")
    write_adapter(tmp_path / "bad", modules=llama_modules(), drop=lambda name: "lora_B" in name)
    loud(1000.0)
    return tmp_path


def loud(factor: float) -> None:
    tensors = lora_tensors(llama_modules())
    larger = {name: raw(np.full(one.shape, factor)) for name, one in tensors.items() if "lora_B" in name}
    write_adapter(Path("loud"), modules=llama_modules(), tensors=larger)


def validate(*argv: str) -> int:
    return main(["validate", *argv, "--base", "base", "--fail-on", "warning"])


def last(capsys: Capture) -> str:
    return " ".join(capsys.readouterr().out.split("\n\n")[-1].split())


def test_only_what_is_new_counts(here: Path, capsys: Capture) -> None:
    assert validate("bad", "loud") == 1
    assert validate("bad", "--write-baseline", "known.json") == 0
    assert json.loads(Path("known.json").read_text())["findings"] == [
        {
            "adapter": "bad",
            "code": "LC302",
            "file": "adapter_model.safetensors",
            "field": "model.layers.0.self_attn.q_proj",
            "count": 1,
        }
    ]
    capsys.readouterr()
    assert validate("bad", "--baseline", "known.json") == 0
    assert last(capsys) == "1 adapter (1 accepted); no errors; no warnings; no skipped checks; 1 known"
    assert validate("bad", "loud", "--baseline", "known.json") == 1
    assert last(capsys) == "2 adapters (1 accepted, 1 refused); no errors; 1 warning; no skipped checks; 1 known"


def test_a_baseline_holds_for_the_next_version_and_from_a_manifest_by_name(here: Path) -> None:
    Path("set.yaml").write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n  - {name: tone, source: ./loud}\n"
    )
    assert main(["validate", "-f", "set.yaml", "--write-baseline", "known.json"]) == 0
    loud(1001.0)
    assert '"tone"' in Path("known.json").read_text()
    assert main(["validate", "-f", "set.yaml", "--baseline", "known.json", "--fail-on", "warning"]) == 0
    assert validate("loud", "--baseline", "known.json") == 1


def test_what_is_found_no_longer_is_said(here: Path, capsys: Capture) -> None:
    assert validate("bad", "loud", "--write-baseline", "known.json") == 0
    loud(1.0)
    capsys.readouterr()

    assert validate("bad", "loud", "--baseline", "known.json") == 0
    said = "warning: known.json: LC504 is no longer found in loud (adapter_model.safetensors: model.layers."
    assert capsys.readouterr().err.startswith(said)
    for elsewhere in (["bad"], ["loud", "--ignore", "LC504"], ["loud", "--no-values"]):
        validate(*elsewhere, "--baseline", "known.json")
        assert "no longer" not in capsys.readouterr().err
    assert main(["--quiet", "validate", "loud", "--base", "base", "--baseline", "known.json"]) == 0
    assert capsys.readouterr().err == ""


def test_an_adapter_that_cannot_be_read_is_never_known(here: Path) -> None:
    assert validate("./gone", "bad", "--write-baseline", "known.json") == 3
    assert validate("./gone", "bad", "--baseline", "known.json") == 3


@pytest.mark.parametrize(("file", "code"), [("adapter_model.safetensors", "LC102"), ("adapter_config.json", "LC107")])
def test_an_adapter_whose_files_cannot_be_read_is_left_out_of_a_new_baseline(
    here: Path, file: str, code: str, capsys: Capture
) -> None:
    Path("loud", file).write_bytes(b"{")

    assert validate("loud", "bad", "./gone", "--write-baseline", "known.json") == 3
    captured = capsys.readouterr()
    assert "3 adapters (1 accepted, 1 refused, 1 failed)" in " ".join(captured.out.split())
    assert captured.err.splitlines() == [
        f"warning: known.json: loud is not in the baseline: it could not be read ({code})",
        "warning: known.json: gone is not in the baseline: it could not be read",
    ]
    assert {entry["adapter"] for entry in json.loads(Path("known.json").read_text())["findings"]} == {"bad"}
    assert validate("loud", "--write-baseline", "known.json") == 1


@pytest.mark.parametrize(("file", "code"), [("adapter_model.safetensors", "LC101"), ("adapter_config.json", "LC106")])
def test_an_adapter_without_weights_or_config_is_left_out_of_a_new_baseline(
    here: Path, file: str, code: str, capsys: Capture
) -> None:
    Path("loud", file).unlink()

    assert validate("loud", "bad", "--write-baseline", "known.json") == 1
    assert (
        capsys.readouterr().err == f"warning: known.json: loud is not in the baseline: it could not be read ({code})\n"
    )
    assert {entry["adapter"] for entry in json.loads(Path("known.json").read_text())["findings"]} == {"bad"}
    assert validate("loud", "--baseline", "known.json") == 1


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--baseline", "a.json", "--write-baseline", "b.json"], 2, "cannot be used together"),
        (["--baseline", "gone.json"], 3, "there is no baseline gone.json"),
        (["--baseline", "base/config.json"], 2, "--write-baseline"),
        (["--write-baseline", "no/such/known.json"], 6, "cannot be written"),
    ],
)
def test_a_wrong_baseline_is_said_before_the_work(
    here: Path, argv: list[str], code: int, said: str, capsys: Capture
) -> None:
    assert validate("bad", *argv) == code

    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def policy(*suppressions: dict[str, str]) -> list[str]:
    document = {"apiVersion": "lora-cli/v1", "kind": "Policy", "suppressions": list(suppressions)}
    Path("policy.yaml").write_text(json.dumps(document, indent=1))
    return ["--policy", "policy.yaml"]


def digest_of(ref: str, capsys: Capture) -> str:
    """As ``fetch`` finds it."""
    capsys.readouterr()
    assert main(["fetch", ref]) == 0
    return Path(capsys.readouterr().out.strip()).name


def test_a_suppression_holds_for_its_digest_and_rule_and_says_why(here: Path, capsys: Capture) -> None:
    digest = digest_of("./loud", capsys)
    given = policy({"digest": digest, "rule": "LC504", "reason": "alpha is meant to be so"})

    assert validate("loud", *given) == 0
    out = capsys.readouterr()
    assert "suppressed 1 finding\n    alpha is meant to be so: LC504 (policy.yaml:5)" in out.out
    assert out.err == ""
    assert validate("loud", *given, "--format", "json") == 0
    adapter = json.loads(capsys.readouterr().out)["adapters"][0]
    assert adapter["digest"] == digest
    assert adapter["findings"][0]["accepted"]["reason"] == "alpha is meant to be so"

    loud(1001.0)
    assert validate("loud", *given) == 1
    now = digest_of("./loud", capsys)
    validate("loud", *given)
    assert f"LC504 is suppressed for another digest; the digest of loud is {now}" in capsys.readouterr().err


def test_what_suppresses_nothing_any_more_is_said(here: Path, capsys: Capture) -> None:
    digest = digest_of("./loud", capsys)
    ended = {"digest": digest, "rule": "huge-update", "reason": "until it is retrained", "until": "2026-01-31"}
    idle = {"digest": digest, "rule": "LC302", "reason": "none is missing"}
    other = {"digest": "ab" * 32, "rule": "LC302", "reason": "of another adapter, in another run"}

    assert validate("loud", *policy(ended, idle, other)) == 1
    assert capsys.readouterr().err.splitlines() == [
        "warning: policy.yaml:5: the suppression of huge-update expired after 2026-01-31",
        "warning: policy.yaml:11: unused suppression: LC302 finds nothing in loud",
    ]


def test_what_was_not_looked_at_is_not_called_idle(here: Path, capsys: Capture) -> None:
    given = policy({"digest": digest_of("./loud", capsys), "rule": "LC501", "reason": "x"})

    for left_out in (["--no-values"], ["--ignore", "LC501"]):
        validate("loud", *given, *left_out)
        assert capsys.readouterr().err == ""


def test_a_rule_that_is_not_there_ends_with_2(here: Path, capsys: Capture) -> None:
    for rule, said in (("LC599", "LC5xx are LC501 to"), ("huge-updates", "did you mean huge-update?")):
        assert validate("loud", *policy({"digest": "ab" * 32, "rule": rule, "reason": "x"})) == 2
        err = capsys.readouterr().err
        assert "policy.yaml:5: unknown rule" in err
        assert said in err


def test_what_nothing_suppresses_costs_no_digest(here: Path, capsys: Capture) -> None:
    assert validate("loud", *policy(), "--format", "json") == 1
    assert json.loads(capsys.readouterr().out)["adapters"][0]["digest"] is None


def test_a_suppression_is_not_for_files_that_its_digest_is_not_of(here: Path, capsys: Capture) -> None:
    """``fetch`` takes no training_args.bin: it can change while the digest stays."""
    digest = digest_of("./loud", capsys)
    Path("loud/training_args.bin").write_bytes(b"cos\nsystem\n(S'id'\ntR.")
    assert validate(
        "loud", *policy(*({"digest": digest, "rule": rule, "reason": "seen"} for rule in ("LC504", "LC108")))
    )
    assert "LC108" in capsys.readouterr().out


def test_a_manifest_cannot_waive_the_rules_of_an_operators_policy(here: Path, capsys: Capture) -> None:
    waived = {"suppressions": [{"digest": digest_of("./loud", capsys), "rule": "LC504", "reason": "fine"}]}
    entries = "adapters: [{name: loud, source: ./loud}]"
    Path("set.yaml").write_text(
        f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\npolicy: {json.dumps(waived)}\n{entries}\n"
    )
    argv = ["validate", "-f", "set.yaml", "--fail-on", "warning"]
    assert main(argv) == 0
    Path("operator.yaml").write_text("apiVersion: lora-cli/v1\nkind: Policy\nallow_formats: [safetensors]\n")
    assert main([*argv, "--policy", "operator.yaml"]) == 1
