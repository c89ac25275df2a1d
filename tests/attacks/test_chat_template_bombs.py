"""Chat templates that are made to be searched for hours: searched in a time that grows with their length."""

import json
from pathlib import Path

import pytest

from tests.attacks.measured import bounded, words
from tests.making import write_adapter

pytestmark = pytest.mark.slow

MIB = 1 << 20
PUMPS = {
    "codes": ("{{", "%c", ""),
    "digits in a range": ("{{ range(", "1", "x)"),
    "ranges and blanks": ("{{", "range( ", ""),
    "a bar and blanks": ("{{ |", " ", "x"),
    "an attribute and blanks": ("{{ | map(attribute =", " ", "'"),
    "underscores in words": ("{{", "__ ", ""),
    "quotes and underscores": ("{{ '_'", " ", "'"),
    "tags": ("", "{{", ""),
}


@pytest.mark.parametrize("name", PUMPS)
def test_a_megabyte_of_anything_is_searched_in_time(name: str, tmp_path: Path) -> None:
    before, pump, after = PUMPS[name]
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "chat_template.jinja").write_text(before + pump * ((MIB - 50) // len(pump)) + after)
    bounded("validate", adapter, "--base", "none")


def test_what_of_all_templates_together_is_not_searched_is_an_error(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    named = [{"name": str(number), "template": "{{ x }}" + "y" * 200_000} for number in range(5)]
    (adapter / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    (adapter / "chat_template.jinja").write_text("{{ x }}" + "y" * 200_000)
    run = bounded("validate", adapter, "--base", "none")
    assert (run.code, "LC602" in run.out) == (1, True)
    assert "the chat templates have over 1048576 characters" in words(run)


@pytest.mark.parametrize("decoy", ["added_tokens.json", "config.json", "additional_chat_templates/a.jinja"])
def test_a_decoy_keeps_no_template_from_being_looked_at_unsaid(decoy: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / decoy).parent.mkdir(exist_ok=True)
    (adapter / decoy).write_text('{"a": 1}' + " " * (8 * MIB - 20))
    (adapter / "chat_template.jinja").write_text("{{ x.__class__ }}")
    run = bounded("validate", adapter, "--base", "none")
    assert (run.code, "LC602" in run.out) == (1, True)


@pytest.mark.parametrize(
    "text", ["[" + "[]," * 2_000_000 + "[]]", "{" + '"a":{},' * 900_000 + '"b":1}', "[" * 7_000_000]
)
@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json", "adapter_config.json", "config.json"])
def test_json_of_millions_of_values_takes_no_memory(name: str, text: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / name).write_text(text)
    bounded("validate", adapter, "--base", "none")
