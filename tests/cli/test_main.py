"""The root command: global options anywhere, one error boundary, an exit code for each kind of failure."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_cli import __version__, errors
from lora_cli.cli.main import COMMANDS
from tests import forked
from tests.cli.running import Run
from tests.conftest import QUICKSTART

PIRATE, BASE = QUICKSTART / "pirate", QUICKSTART / "smollm2-135m"
EXIT_TABLE = [
    (errors.FormatError("not JSON", where="adapter_config.json"), 1),
    (errors.NoAdapter("neither was found", {}, where="a", hint=""), 1),
    (errors.TooLarge("over 400000 values", where="adapter_config.json"), 1),
    (errors.UnsafePickle("looks up os.system", "os.system"), 1),
    (errors.Refused("a policy says no"), 1),
    (errors.UsageError("unknown key"), 2),
    (errors.DocumentError([errors.UsageError("unknown key"), errors.UsageError("not a name")]), 2),
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


@pytest.mark.parametrize(("error", "code"), EXIT_TABLE, ids=lambda value: repr(value)[:40])
def test_each_kind_of_failure_has_its_exit_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    def command() -> None:
        raise error

    monkeypatch.setitem(COMMANDS, "fail", "Fails.")
    monkeypatch.setitem(sys.modules, "lora_cli.cli.fail", SimpleNamespace(command=command, EXAMPLES=()))
    out, err = run("fail", code)
    assert (out, "Traceback" in err) == ("", code == 70)


def test_every_error_class_is_in_the_table() -> None:
    def leaves(parent: type[Exception]) -> set[type[Exception]]:
        return {parent} | {leaf for child in parent.__subclasses__() for leaf in leaves(child)}

    ours = {cls for cls in leaves(errors.LoraCliError) if cls.__module__ == "lora_cli.errors"}
    assert ours - {errors.LoraCliError} == {type(error) for error, _ in EXIT_TABLE if type(error) in ours}


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        (None, "lora-cli[warm]"),
        ('{"url": "file:///src/lora-cli", "dir_info": {}}', "lora-cli[warm] @ file:///src/lora-cli"),
        ('{"url": "https://git.example/l", "vcs_info": {"vcs": "git"}}', "lora-cli[warm] @ git+https://git.example/l"),
    ],
)
def test_m6_a_missing_extra_is_installed_from_where_this_program_is(
    origin: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.distribution", lambda _: SimpleNamespace(read_text=lambda _: origin))
    assert errors.MissingExtra("warm", "warm", "torch").hint == f"pip install '{words}'"


@pytest.mark.parametrize(
    ("package", "line", "what"),
    [
        ("torch", f"warm {PIRATE} --base {BASE}", "warm"),
        ("transformers", f"warm {PIRATE} --base {BASE} --forward model", "--forward model"),
        ("transformers", f"serve-bench {PIRATE} --base {BASE}", "serve-bench of its own server"),
        ("transformers", f"validate {PIRATE} --base .", "a base model of this family"),
        ("ray", f"validate {PIRATE} --base none --ray local", "validate --ray"),
    ],
)
def test_a_command_whose_package_is_not_installed_names_it(
    package: str, line: str, what: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "ctrl"}')
    monkeypatch.setitem(sys.modules, package, None)
    assert f"error: {what} needs the package {package}, which is not installed" in run(line, 2)[1]


@pytest.mark.parametrize(
    "line",
    [
        "--cache-dir HERE cache path",
        "cache --cache-dir HERE path",
        "cache path --cache-dir=HERE -q",
        "--cache-dir /elsewhere cache path --cache-dir HERE",
    ],
)
def test_global_options_stand_before_or_after_the_subcommand(line: str, tmp_path: Path, run: Run) -> None:
    assert str(tmp_path) in run(line.replace("HERE", str(tmp_path))).out
    run("fetch -- --quiet", 2)
    run("validate -qf none.yaml", 3)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("fetch --zzz", "error: No such option: --zzz\nhint: lora-cli fetch --help\n"),
        ("fetch --\x1b[31mred x", "error: No such option: --\\x1b[31mred"),
        ("init", "error: Missing argument"),
        ("fetch x --to", "error: Option '--to' requires an argument.\nhint: lora-cli --help\n"),
        ("cache path --cache-dir=", "error: --cache-dir: '' is not a path\n"),
        ("warm x --max-loras 0", "error: Invalid value for '--max-loras': "),
        ("rules --format yaml", "error: Invalid value for '--format': "),
        ("cache lss", "error: No such command 'lss'. Did you mean 'ls'?\n"),
        ("", "Usage: lora-cli"),
        ("cache", "Usage: lora-cli cache"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_two_lines_and_without_a_command_its_help(
    line: str, told: str, run: Run
) -> None:
    out, err = run(line, 2)
    assert (out, err.strip().startswith(told.strip()), "\x1b" in err) == ("", True, False), err


def test_a_variable_that_nothing_reads_is_an_error_that_names_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    kubernetes = ("PORT", "SERVICE_HOST", "SERVICE_PORT_HTTP", "PORT_80_TCP_ADDR", "API_PORT")
    for name in ("TIMEOUT", "MAX_LORAS", "RETRIES", "ENGINE", "MANIFEST", *kubernetes):
        monkeypatch.setenv(f"LORA_CLI_{name}", "3")
    run("rules LC101")
    monkeypatch.setenv("LORA_CLI_OFFLINE", "maybe")
    assert run("rules LC101", 2).err.startswith("error: LORA_CLI_OFFLINE: ")
    monkeypatch.delenv("LORA_CLI_OFFLINE")
    for name in ("TIMOUT", "MAX_LORA", "ZZZ", "LOCKED"):
        monkeypatch.setenv(f"LORA_CLI_{name}", "3")
    for line in ("rules LC101", "-q rules LC101", "cache path"):
        told = "LORA_CLI_LOCKED, LORA_CLI_MAX_LORA (did you mean LORA_CLI_MAX_LORAS?), "
        told += "LORA_CLI_TIMOUT (did you mean LORA_CLI_TIMEOUT?), LORA_CLI_ZZZ"
        hint = "unset it; docs/cli.md and docs/manifest.md list the variables"
        assert run(line, 2) == ("", f"error: unknown in the environment: {told}\nhint: {hint}\n")
    run("rules --help")
    assert run("--version").out.startswith(f"lora-cli {__version__}\n")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$LORA rules >/dev/full", 6),
        ("$LORA rules | true; exit ${PIPESTATUS[0]}", 141),
    ],
)
def test_an_output_that_is_full_or_not_read_has_its_exit_code(line: str, code: int) -> None:
    environ = {**os.environ, "LORA": f"{sys.executable} -m lora_cli"}
    done = subprocess.run(["bash", "-c", line], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stdout + done.stderr) == (code, False)


@pytest.mark.parametrize(("line", "words"), [("valid", ["validate"]), ("validate --fail-on w", ["warning"])])
def test_a_word_is_completed_by_typer(line: str, words: list[str]) -> None:
    asked = {"_LORA_CLI_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = forked.run([], {**os.environ, **asked, "_TYPER_COMPLETE_ARGS": f"lora-cli {line}"})
    assert [word.partition("\t")[0] for word in done.out.split("\n") if word] == words


def test_version_with_v_tells_where_everything_is_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    (tmp_path / ".azure").mkdir()
    file = tmp_path / "config.toml"
    file.write_text('[[sources]]\nmatch = "hf://acme/*"\ntoken_env = "ACME_TOKEN"\n')
    given = {"HF_TOKEN": "hf_secret1", "ACME_TOKEN": "secret2", "LORA_CLI_API_KEY": "", "HOME": str(tmp_path)}
    for name, value in {**given, "LORA_CLI_CONFIG": str(file), "LORA_CLI_CACHE_DIR": "/srv/cache"}.items():
        monkeypatch.setenv(name, value)
    told = run("--version -v").out
    lines = dict(line.split(None, 1) for line in told.splitlines())
    assert (lines["lora-cli"], lines["cache"], lines["settings"]) == (__version__, "/srv/cache", str(file))
    assert (lines["Hub"], lines["sources"]) == ("credentials in HF_TOKEN", "credentials in ACME_TOKEN")
    assert (lines["Azure"], lines["engines"]) == ("credentials in ~/.azure", "no credentials found")
    assert lines["torch"][0].isdigit()
    assert "secret" not in told.replace("secrets", "")
