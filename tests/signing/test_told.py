"""It is told who signed an adapter, if a policy requires that."""

import json
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.making import llama_modules, write_adapter, write_base
from tests.signing.pki import key_pair, sign

HEAD = "apiVersion: lora-cli/v1\nkind: Policy\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signed adapter in the cache, and a policy that requires it."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "sql", modules=llama_modules())
    write_base(tmp_path / "base")
    sign(tmp_path / "sql", key_pair(tmp_path, "acme").private)
    (tmp_path / "policy.yaml").write_text(f"{HEAD}require_signature: [{{keys: [acme.pub]}}]\n")
    assert main(["fetch", "./sql", "--policy", "policy.yaml"]) == 0


def test_who_signed_it(capsys: pytest.CaptureFixture[str]) -> None:
    for more, signers in (["--policy", "policy.yaml"], ["the key acme.pub"]), ([], []):
        capsys.readouterr()
        assert main(["inspect", "./sql", *more]) == 0
        assert ("signed by the key acme.pub" in " ".join(capsys.readouterr().out.split())) is bool(signers)
        assert main(["inspect", "./sql", *more, "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["adapters"][0].get("signers", []) == signers


@pytest.mark.slow
def test_warm_says_who_signed_it(capsys: pytest.CaptureFixture[str]) -> None:
    warm = ["warm", "./sql", "--base", "base", "--device", "cpu", "--policy", "policy.yaml"]
    capsys.readouterr()
    assert main([*warm, "--format", "json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["adapters"]
    assert report["signers"] == ["the key acme.pub"]
    assert main(warm) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "the key acme.pub" in words
