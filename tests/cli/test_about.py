"""``lora-cli --version -v``."""

from pathlib import Path

import pytest

from lora_cli import __version__
from lora_cli.cli.main import main


def test_it_tells_where_everything_is_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[[sources]]\nmatch = "hf://acme/*"\ntoken_env = "ACME_TOKEN"\n')
    given = {"HF_TOKEN": "hf_secret1", "ACME_TOKEN": "secret2", "LORA_CLI_API_KEY": "", "HOME": str(tmp_path)}
    for name, value in {**given, "LORA_CLI_CONFIG": str(file), "LORA_CLI_CACHE_DIR": "/srv/cache"}.items():
        monkeypatch.setenv(name, value)
    assert main(["--version", "-v"]) == 0
    told = capsys.readouterr().out
    lines = dict(line.split(None, 1) for line in told.splitlines())
    assert (lines["lora-cli"], lines["cache"], lines["settings"]) == (__version__, "/srv/cache", str(file))
    assert (lines["Hub"], lines["sources"]) == ("credentials in HF_TOKEN", "credentials in ACME_TOKEN")
    assert lines["engines"] == "no credentials found"
    assert lines["torch"][0].isdigit()
    assert "secret" not in told.replace("secrets", "")
