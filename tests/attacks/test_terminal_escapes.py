"""Names and answers with escapes for terminals, and with commands for the runner of a CI server."""

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.cli.output import to_stderr, write
from lora_cli.json_schema import to_json
from lora_cli.redaction import logger
from lora_cli.text import escape_ci_commands, safe, safe_lines
from tests.answering import answering
from tests.hostile_names import ALL_BREAKS as HOSTILE
from tests.hostile_names import BREAKS, COMMAND, obeyed
from tests.making import write_adapter, write_base_config
from tests.planted import Machine

HEAD = "apiVersion: lora-cli/v1\nkind: AdapterSet\n"
ONE = "adapters:\n  - {name: a, source: ./sql}\n"


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


MANIFEST, POLICY, LOCK = (
    ["-f", "set.yaml"],
    ["./sql", "--policy", "set.yaml"],
    ["-f", "good.yaml"],
)
OF_A_POLICY, OF_A_LOCK = (f"apiVersion: lora-cli/v1\nkind: {kind}\n" for kind in ("Policy", "AdapterSetLock"))
FILES = {
    "an unknown key": (f"{HEAD}{ONE}{key(HOSTILE)}: 1\n", MANIFEST),
    "a key that stands twice": (f"{HEAD}{ONE}{key(HOSTILE)}: 1\n{key(HOSTILE)}: 1\n", MANIFEST),
    "a key of an adapter": (f"{HEAD}adapters:\n  - {{name: a, source: ./a, {key(HOSTILE)}: 1}}\n", MANIFEST),
    "a name": (f"{HEAD}adapters:\n  - {{name: {key(HOSTILE)}, source: ./a}}\n", MANIFEST),
    "a source": (f"{HEAD}adapters:\n  - {{name: a, source: {key('./' + HOSTILE)}}}\n", MANIFEST),
    "a tag": (f"{HEAD}base: !<tag:x%0D::error::x> y\n{ONE}", MANIFEST),
    "a kind": (f"apiVersion: lora-cli/v1\nkind: {key(HOSTILE)}\n", MANIFEST),
    "a key of a policy": (f"{OF_A_POLICY}{key(HOSTILE)}: 1\n", POLICY),
    "a glob of a policy": (f"{OF_A_POLICY}allow_sources: [{key('/' + HOSTILE)}]\n", POLICY),
    "a key of a lock": (f"{OF_A_LOCK}{key(HOSTILE)}: 1\n", LOCK),
}


@pytest.mark.parametrize("what", FILES)
@pytest.mark.parametrize("form", ["human", "json"])
def test_what_is_wrong_in_a_file_is_told_to_nobodys_terminal(
    what: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, argv = FILES[what]
    write_adapter(tmp_path / "sql")
    (tmp_path / "set.yaml").write_text(text)
    (tmp_path / "good.yaml").write_text(HEAD + ONE)
    (tmp_path / "good.lock.yaml").symlink_to("set.yaml")
    monkeypatch.chdir(tmp_path)
    code = main(["fetch", *argv, "--format", form])
    out, err = capsys.readouterr()
    assert code in {1, 2, 3}
    assert err
    assert obeyed(err) == []
    assert obeyed(out) == []
    if out.strip() and form == "json":
        json.loads(out)


@pytest.mark.parametrize("where", [HOSTILE, "--" + HOSTILE, "-" + HOSTILE])
@pytest.mark.parametrize(
    "command", [[], ["fetch"], ["validate", "--base", "x"], ["rules"], ["cache", "show"], ["warm"]]
)
def test_words_of_the_command_line_are_repeated_without_what_they_would_do(
    where: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command, where]) in {1, 2, 3}
    out, err = capsys.readouterr()
    assert out + err
    assert obeyed(out + err) == []


def test_a_family_of_models_that_nobody_knows_is_told_harmlessly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_adapter(tmp_path / "sql")
    (tmp_path / "base").mkdir()
    config = json.loads(write_base_config(tmp_path / "base").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "model_type": HOSTILE}))
    assert main(["validate", str(tmp_path / "sql"), "--base", str(tmp_path / "base")]) in {1, 2, 3}
    assert obeyed("".join(capsys.readouterr())) == []


@pytest.mark.parametrize("argv", [["warm", "--status"], ["serve-bench"]])
def test_the_words_of_a_server_are_repeated_harmlessly(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    body = json.dumps({"object": "error", "message": HOSTILE, "error": {"message": HOSTILE}}).encode()
    with answering(lambda _: (418, body, {"X-Error-Message": "x"})) as endpoint:
        port = endpoint.rpartition(":")[2]
        asked = [*argv, "--url", endpoint] if argv[0] == "serve-bench" else [*argv, "--listen", f"127.0.0.1:{port}"]
        assert main(asked) in {2, 7}
    err = capsys.readouterr().err
    assert "INJECTED" in err or argv[0] == "serve-bench"
    assert obeyed(err) == []


def test_what_the_log_tells_is_harmless(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    folder = tmp_path / "a\u202e\x85::error::x"
    write_adapter(folder / "checkpoint-5")
    (folder / "checkpoint-7").mkdir()
    (folder / "checkpoint-7" / "x").touch()
    assert machine.run("fetch", str(folder)) == 0
    assert "checkpoint" in machine.said[-1]
    assert obeyed(machine.said[-1]) == []


def test_every_logger_of_ours_makes_its_records_harmless(caplog: pytest.LogCaptureFixture) -> None:
    logger("lora_cli.attacks").warning("%s and %d", HOSTILE, 5)
    assert obeyed(caplog.records[-1].getMessage()) == []
    assert caplog.records[-1].getMessage().endswith(" and 5")
    modules = (Path(__file__).parents[2] / "lora_cli").rglob("*.py")
    others = [one.name for one in modules if re.search(r"getLogger\((?!\"(lora_cli|azure)\"\)|\))", one.read_text())]
    assert others == ["redaction.py"]
    assert isinstance(logging.getLogger("lora_cli"), logging.Logger)


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


def test_a_variable_of_a_strange_name_is_told_harmlessly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, f"LORA_CLI_{HOSTILE.replace('=', '')}", "1")
    assert main(["cache", "ls"]) == 2
    err = capsys.readouterr().err
    assert "INJECTED" in err
    assert obeyed(err) == []
