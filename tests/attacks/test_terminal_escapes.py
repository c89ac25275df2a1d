"""Manifests and locks with escapes for terminals, and with commands for the runner of a CI server."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.cli.output import to_stderr, write
from lora_cli.json_schema import to_json
from lora_cli.redaction import logger
from lora_cli.text import escape_ci_commands, safe, safe_lines
from tests.hostile_names import ALL_BREAKS as HOSTILE
from tests.hostile_names import BREAKS, COMMAND, obeyed
from tests.making import write_adapter, write_base_config

HEAD = "apiVersion: lora-cli/v1\nkind: AdapterSet\n"
ONE = "adapters:\n  - {name: a, source: ./sql}\n"
LOCK = "apiVersion: lora-cli/v1\nkind: AdapterSetLock\n"


def test_the_looking_finds_what_is_there() -> None:
    assert obeyed("a\x1b[1m\n::error::x\u2028::set-output::y z##[x") == [r"'\u2028'", r"'\x1b'", "::error::x",
                                                                       "::set-output::y z##[x"]  # fmt: skip
    assert obeyed("plain\n  text: a::b\n") == []


@pytest.mark.parametrize(
    "text", [HOSTILE, *BREAKS, *(f"{one}::error::x" for one in BREAKS), "\n::error::x", "a\n\t::x"]
)
def test_what_is_made_harmless_is_obeyed_by_nobody(text: str) -> None:
    assert obeyed(safe_lines(text)) == []
    assert obeyed(safe(text)) in ([], [safe(text)])
    assert not any(COMMAND.search(line) for line in escape_ci_commands(text).splitlines())


def key(text: str) -> str:
    return json.dumps(text)


FILES = {
    "an unknown key": ("set.yaml", f"{HEAD}{ONE}{key(HOSTILE)}: 1\n"),
    "a key that stands twice": ("set.yaml", f"{HEAD}{ONE}{key(HOSTILE)}: 1\n{key(HOSTILE)}: 1\n"),
    "a key of an adapter": ("set.yaml", f"{HEAD}adapters:\n  - {{name: a, source: ./a, {key(HOSTILE)}: 1}}\n"),
    "a name": ("set.yaml", f"{HEAD}adapters:\n  - {{name: {key(HOSTILE)}, source: ./a}}\n"),
    "a source": ("set.yaml", f"{HEAD}adapters:\n  - {{name: a, source: {key('./' + HOSTILE)}}}\n"),
    "a tag": ("set.yaml", f"{HEAD}base: !<tag:x%0D::error::x> y\n{ONE}"),
    "a kind": ("set.yaml", f"apiVersion: lora-cli/v1\nkind: {key(HOSTILE)}\n"),
    "a key of a lock": ("set.lock.yaml", f"{LOCK}{key(HOSTILE)}: 1\n"),
}


@pytest.mark.parametrize("what", FILES)
@pytest.mark.parametrize("form", ["human", "json"])
def test_what_is_wrong_in_a_file_is_told_to_nobodys_terminal(
    what: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_adapter(Path("sql"))
    Path("set.yaml").write_text(HEAD + ONE)
    file, text = FILES[what]
    Path(file).write_text(text)
    assert main(["fetch", "-f", "set.yaml", "--format", form]) in {1, 2, 3}
    out, err = capsys.readouterr()
    assert err
    assert obeyed(err + out) == []
    assert form != "json" or not out.strip() or json.loads(out)


def test_a_family_of_models_that_nobody_knows_is_told_harmlessly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_adapter(tmp_path / "sql")
    config = write_base_config(tmp_path / "base")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": HOSTILE}))
    assert main(["validate", str(tmp_path / "sql"), "--base", str(tmp_path / "base")]) in {1, 2, 3}
    assert obeyed("".join(capsys.readouterr())) == []


def test_every_logger_of_ours_makes_its_records_harmless(caplog: pytest.LogCaptureFixture) -> None:
    logger("lora_cli.attacks").warning("%s and %d", HOSTILE, 5)
    assert obeyed(caplog.records[-1].getMessage()) == []
    assert caplog.records[-1].getMessage().endswith(" and 5")
    modules = (Path(__file__).parents[2] / "lora_cli").rglob("*.py")
    others = [one.name for one in modules if re.search(r"getLogger\((?!\"(lora_cli|azure)\"\)|\))", one.read_text())]
    assert others == ["redaction.py"]


@pytest.mark.parametrize("say", [to_stderr, write])
def test_nothing_that_is_written_begins_a_command(
    say: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for one in ("\n", *BREAKS):
        say(f"x{one}::error file=a::INJECTED{one}##[group]y\n")
    told = "".join(capsys.readouterr())
    assert not [line for line in re.split(r"[\n" + BREAKS + "]", told) if COMMAND.search(line)]


def test_json_stays_json_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    value = {HOSTILE: [HOSTILE, "###[x", "::error::x", "\x7f\U000e0001", "\u20ac é \U0001f600"]}
    write(to_json(value))
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert obeyed(out) == []
    assert "é \U0001f600" in out
