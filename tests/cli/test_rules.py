"""``lora-cli rules``: the list, and one rule's documentation."""

import pytest

from lora_cli.checks import CHECKS
from lora_cli.cli.main import main


def test_every_rule_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules"]) == 0

    out = capsys.readouterr().out
    assert all(f"{rule.code}  {rule.severity!s:<7}  {rule.name}" in out for rule in CHECKS)


def test_one_rule_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "lc301"]) == 0

    out = capsys.readouterr().out
    assert out.startswith("LC301 rank-mismatch\nerror; needs config, weights\n")
    assert "Fix: write the tensors' rank" in out
    assert "``" not in out
