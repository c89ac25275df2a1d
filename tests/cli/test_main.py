"""The root command: global options anywhere, one error boundary, an exit code for each kind of failure."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_cli import __version__, errors
from lora_cli.cli.main import COMMANDS, load_command, main

EXIT_TABLE = [
    (errors.FormatError("not JSON", where="adapter_config.json"), 1),
    (errors.NoAdapter("neither was found", {}, where="a", hint=""), 1),
    (errors.TooLarge("over 400000 values", where="adapter_config.json"), 1),
    (errors.UnsafePickle("looks up os.system", "os.system"), 1),
    (errors.Refused("a policy says no"), 1),
    (errors.UsageError("unknown key"), 2),
    (
        errors.DocumentError([errors.UsageError("unknown key"), errors.UsageError("not a name")]),
        2,
    ),
    (errors.MissingExtra("warm", "warm", "torch"), 2),
    (errors.NotFound("no such repository"), 3),
    (errors.AccessDenied("gated"), 3),
    (errors.Offline("not cached"), 3),
    (errors.Unreachable("timed out"), 4),
    (errors.Corrupt("digest differs"), 5),
    (errors.Changed("overwritten meanwhile"), 5),
    (errors.MachineError("disk full"), 6),
    (OSError(28, "No space left on device", "/cache/tmp/x"), 6),
    (MemoryError(), 6),
    (errors.EndpointError("not ready"), 7),
    (RuntimeError("nobody foresaw this"), 70),
]


def a_command_that_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a subcommand ``fail`` on the command line."""

    def command() -> None:
        raise error

    monkeypatch.setitem(COMMANDS, "fail", "Fails.")
    monkeypatch.setitem(sys.modules, "lora_cli.cli.fail", SimpleNamespace(command=command, EXAMPLES=()))


@pytest.mark.parametrize(("error", "code"), EXIT_TABLE, ids=lambda value: repr(value)[:40])
def test_each_kind_of_failure_has_its_exit_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_command_that_raises(error, monkeypatch)

    assert main(["fail"]) == code

    out, err = capsys.readouterr()
    assert out == ""
    assert ("Traceback" in err) == (code == 70)


def test_every_error_class_is_in_the_table() -> None:
    def leaves(parent: type[Exception]) -> set[type[Exception]]:
        return {parent} | {leaf for child in parent.__subclasses__() for leaf in leaves(child)}

    ours = {cls for cls in leaves(errors.LoraCliError) if cls.__module__ == "lora_cli.errors"}

    assert ours - {errors.LoraCliError} == {type(error) for error, _ in EXIT_TABLE if type(error) in ours}


def test_an_error_is_one_message_and_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_command_that_raises(errors.NotFound("sql: no such path: /srv/sql", hint="check the spelling"), monkeypatch)

    main(["fail"])

    assert capsys.readouterr().err == "error: sql: no such path: /srv/sql\nhint: check the spelling\n"


def test_a_missing_extra_names_the_install_that_mends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_command_that_raises(errors.MissingExtra("warm", "warm", "torch"), monkeypatch)

    main(["fail"])

    assert "pip install 'lora-cli[warm]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "--cache-dir HERE cache path",
        "cache --cache-dir HERE path",
        "cache path --cache-dir HERE",
        "cache path --cache-dir=HERE -q",
        "--cache-dir /elsewhere cache path --cache-dir HERE",
    ],
)
def test_global_options_stand_before_or_after_the_subcommand(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.replace("HERE", str(tmp_path)).split()) == 0
    assert str(tmp_path) in capsys.readouterr().out
    assert main(["fetch", "--", "--quiet"]) == 2
    assert main(["validate", "-qf", str(tmp_path / "none.yaml")]) == 3


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lora-cli {__version__}\n"


def test_every_option_has_its_environment_variable() -> None:
    for name in COMMANDS:
        for parameter in options_of(load_command(name)):
            longest = next(flag for flag in parameter.opts if flag.startswith("--"))
            if longest not in {"--help", "--max-bytes"}:  # LORA_CLI_MAX_BYTES is the setting of another limit
                assert parameter.envvar == "LORA_CLI_" + longest[2:].replace("-", "_").upper()


def options_of(command: Any) -> list[Any]:
    """The options of a command and of its subcommands."""
    own = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    return own + [option for child in getattr(command, "commands", {}).values() for option in options_of(child)]


@pytest.mark.parametrize("formats", ["sarif", "human sarif=lora.sarif", "github junit"])
@pytest.mark.parametrize("line", [["rules", "LC101"], ["engines", "peft"], ["cache", "path"]], ids=" ".join)
def test_a_format_that_validate_alone_has_may_be_set_for_a_whole_job(
    line: list[str], formats: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == 0
    usual = capsys.readouterr()
    monkeypatch.setenv("LORA_CLI_FORMAT", formats)
    assert main(line) == 0
    assert capsys.readouterr() == usual


@pytest.mark.parametrize("formats", ["yaml", "sarif jsn=x"])
def test_a_format_that_no_command_has_is_wrong_for_each(
    formats: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_CLI_FORMAT", formats)
    assert main(["rules", "LC101"]) == 2
    assert capsys.readouterr().err.startswith(f"error: LORA_CLI_FORMAT: '{formats}' is not one of 'human', 'json'\n")


def in_a_shell(line: str) -> int:
    """The exit code of a shell line in which ``$LORA`` is the program."""
    done = subprocess.run(
        ["bash", "-c", line],
        env={**os.environ, "LORA": f"{sys.executable} -m lora_cli"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$LORA rules >&-", 0),
        ("$LORA --version >&- 2>&-", 0),
        ("$LORA fetch ./nowhere 2>&-", 3),
        ("$LORA fetch 2>/dev/full", 2),
        ("$LORA rules >/dev/full", 6),
        ("$LORA rules | true; exit ${PIPESTATUS[0]}", 141),
        ("$LORA --help | true; exit ${PIPESTATUS[0]}", 141),
        ("HF_ENDPOINT=http://127.0.0.1:99999 $LORA fetch acme/sql", 2),
    ],
)
def test_streams_that_are_closed_full_or_not_read_change_no_other_exit_code(line: str, code: int) -> None:
    assert in_a_shell(line) == code


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_path_that_may_not_be_read_is_this_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "set.yaml").write_text("kind: AdapterSet")
    (tmp_path / "set.yaml").chmod(0o600)
    code = "import os, sys; os.setuid(65534); from lora_cli.cli.main import main; sys.exit(main(sys.argv[1:]))"
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)

    # The package is imported before the change of user: this interpreter may lie where nobody else may look.
    preload = (
        "from lora_cli.cli.main import main; main(['fetch', '-f', 'none.yaml']); import lora_cli.documents.manifest; "
    )
    done = subprocess.run(
        [sys.executable, "-c", preload + code, "fetch", "-f", str(tmp_path / "set.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 6, done.stderr
    assert "set.yaml" in done.stderr


COMMAND_LINES = (
    ["cache", "ls"], ["cache", "verify"], ["cache", "gc"], ["cache", "rm", "x"], ["cache", "path"], ["fetch", "x"],
    ["validate", "x"], ["inspect", "x"], ["warm", "x", "--base", "y"], ["serve-bench", "x", "--base", "y"],
    ["rules"], ["engines"], ["repair", "x", "--engine", "vllm", "--check"], ["init", "x"],
)  # fmt: skip


def test_the_lines_are_of_every_command() -> None:
    assert {line[0] for line in COMMAND_LINES} == set(COMMANDS)


@pytest.mark.parametrize("line", COMMAND_LINES, ids=" ".join)
@pytest.mark.parametrize("what", ["a file", "a dangling link"])
def test_every_command_says_the_same_of_a_cache_that_is_no_folder(
    line: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    cache.write_text("mine") if what == "a file" else cache.symlink_to("nowhere")
    assert main(["--cache-dir", str(cache), *line]) == 6
    told = f"error: {cache}: the cache is {what}\nhint: set --cache-dir to a folder\n"
    assert capsys.readouterr() == ("", told)


def test_an_unknown_variable_is_an_error_that_names_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("LORA_CLI_TIMOUT", "LORA_CLI_MAX_LORA", "LORA_CLI_ZZZ"):
        monkeypatch.setenv(name, "3")
    for right in ("LORA_CLI_TIMEOUT", "LORA_CLI_MAX_LORAS", "LORA_CLI_UNUSED_FOR", "LORA_CLI_RETRIES"):
        monkeypatch.setenv(right, "3")
    for line in (["rules", "LC101"], ["-q", "rules", "LC101"], ["cache", "path"]):
        assert main(line) == 2
        assert capsys.readouterr() == (
            "",
            "error: unknown variables in the environment: LORA_CLI_MAX_LORA (did you mean LORA_CLI_MAX_LORAS?), "
            "LORA_CLI_TIMOUT (did you mean LORA_CLI_TIMEOUT?), LORA_CLI_ZZZ\n"
            "hint: unset them; docs/cli.md and docs/manifest.md list the variables\n",
        )
    assert main(["--version"]) == main(["rules", "--help"]) == 0


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["fetch", "x", "--lokced"], "error: no such option: --lokced\nhint: did you mean --locked?\n"),
        (
            ["inspect", "x", "-o", "json"],
            "error: 'json' is a format, but a file is needed\nhint: --format json, or json.txt as the file\n",
        ),
        (["fetch", "--zzz"], "error: no such option: --zzz\nhint: lora-cli fetch --help\n"),
        (["init"], "error: missing argument 'REF'\nhint: lora-cli init --help\n"),
        (["fetch", "x", "--to"], "error: option '--to' requires an argument\nhint: lora-cli fetch --help\n"),
        (
            ["cache", "path", "--cache-dir"],
            "error: option '--cache-dir' requires an argument\nhint: lora-cli cache --help\n",
        ),
        (["cache", "path", "--cache-dir="], "error: --cache-dir: '' is not a path\n"),
        (["warm", "x", "--max-loras", "a"], "error: invalid value for '--max-loras': 'a' is not a whole number\n"),
        (["fecth"], "error: no such command 'fecth'\nhint: did you mean 'fetch'?\n"),
        (["cache", "lss"], "error: no such command 'lss'\nhint: did you mean 'ls'?\n"),
        (["warm", "x", "--max-loras", "0"], "error: invalid value for '--max-loras': 0 is not in the range x>=1\n"),
        (["rules", "--format", "yaml"], "error: invalid value for '--format': 'yaml' is not one of 'human', 'json'\n"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_as_every_other_error(
    line: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(told)


@pytest.mark.parametrize("line", [[], ["cache"]])
def test_without_a_command_the_help_is_printed(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage: lora-cli" in err


def test_a_control_character_or_a_secret_in_a_wrong_word_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "--\x1b[31mred", "x"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_flag_beats_a_variable_that_says_the_opposite(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_CLI_QUIET", "1")
    assert main(["-v", "cache", "path"]) == 0
    monkeypatch.setenv("LORA_CLI_QUIET", "n")
    assert main(["cache", "path"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LORA_CLI_PORT", "tcp://10.0.0.1:80"),
        ("LORA_CLI_SERVICE_HOST", "10.0.0.1"),
        ("LORA_CLI_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("LORA_CLI_API_PORT", "tcp://10.0.0.1:80"),
    ],
)
def test_what_kubernetes_sets_beside_a_service_is_left_out(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["cache", "path"]) == 0
    assert capsys.readouterr().err == ""


def test_an_option_that_is_wrongly_set_to_an_address_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_CLI_HUB_ENDPOINT", "tcp://10.0.0.1:80")
    assert main(["cache", "path"]) == 2
    assert capsys.readouterr().err.startswith("error: LORA_CLI_HUB_ENDPOINT: ")
