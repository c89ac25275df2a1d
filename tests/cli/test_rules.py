"""``lora-cli rules``: the list, and one rule's documentation."""

import pytest
from lora_cli.rules import RULES

from lora_cli.cli.main import main


def test_every_rule_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules"]) == 0

    out = capsys.readouterr().out
    assert all(f"{rule.code}  {rule.severity!s:<7}  {rule.name}" in out for rule in RULES)


def test_one_rule_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "lc301"]) == 0

    out = capsys.readouterr().out
    assert out.startswith("LC301 rank-mismatch\nerror; needs config, weights\n")
    assert "Why is this bad?" in out
    assert "Fix: write the tensors' rank" in out
    assert "``" not in out
