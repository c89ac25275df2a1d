"""What a shell is offered after a TAB: by bash itself, and by the protocol that zsh and fish speak."""

import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.engines import ENGINES
from lora_cli.rules import RULES
from lora_cli.store import Store
from lora_cli.store.resolution_records import all_records, write_record
from tests import forked
from tests.cli.test_startup import HEAVY, modules_after
from tests.copies import command_folder
from tests.hub_server import Hub
from tests.making import write_adapter

pytestmark = pytest.mark.slow

Offered = Callable[[str], list[str]]


def lora_cli(**environ: str) -> str:
    """What it tells a shell that asks in these variables."""
    done = forked.run([], {**os.environ, **environ})
    assert done.err == ""
    return done.out


def run(argv: list[str]) -> str:
    path = f"{command_folder()}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(argv, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


def bash(line: str) -> list[str]:
    """What bash would offer at the end of ``line``, by the script that we give it."""
    script = lora_cli(_LORA_CLI_COMPLETE="source_bash")
    words = line.split(" ")
    said = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _lora_cli_completion lora-cli"
    return run(["bash", "--norc", "-c", f'{script}\n{said}\nprintf "%s\\n" "${{COMPREPLY[@]}}"']).split()


def zsh(line: str) -> list[str]:
    words = lora_cli(_LORA_CLI_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
    return (
        [] if words == "_files\n" else [word.split('"')[1] for word in words.split("((")[1].splitlines() if '"' in word]
    )


def fish(line: str) -> list[str]:
    asked = {"_LORA_CLI_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    return [word.partition("\t")[0] for word in lora_cli(**asked, _TYPER_COMPLETE_ARGS=line).split("\n") if word]


@pytest.fixture(params=[bash, zsh, fish], ids=lambda shell: shell.__name__)
def offered(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offered:
    """Completes a line in one of the shells, with a cache that holds two adapters."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    with Hub() as hub:
        hub.add("acme/sql", write_adapter(tmp_path / "sql"))
        hub.add("acme/chat", write_adapter(tmp_path / "chat", seed=1))
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert main(["fetch", "acme/sql", "acme/chat"]) == 0
    shell: Offered = request.param
    return shell


def test_each_shell_is_offered_adapters_engines_and_rules(offered: Offered) -> None:
    assert offered("lora-cli validate acme/s") == ["acme/sql"]
    assert offered("lora-cli cache show ") == ["acme/chat", "acme/sql"]
    assert offered("lora-cli cache verify ") == ["acme/chat", "acme/sql"]
    assert offered("lora-cli engines ") == list(ENGINES)
    assert offered("lora-cli rules LC50") == [rule.code for rule in RULES if rule.code.startswith("LC50")]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache with one adapter of the Hub."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    with Hub() as hub:
        hub.add("acme/sql", write_adapter(tmp_path / "sql"))
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert main(["fetch", "acme/sql"]) == 0


@pytest.mark.usefixtures("cached")
def test_bash_puts_whole_words_into_its_line_whatever_it_splits_them_at(tmp_path: Path) -> None:
    lines = {
        "engines sgl\t": "engines sglang",
        "validate --engine vllm@0.31\t x": "validate --engine vllm@0.31 x",
        "validate --engine=trt\tx": "validate --engine=trtllm x",
        "validate --engine=sglang@\t": "validate --engine=sglang@0.5.23",
        "validate acme/s\t": "validate acme/sql",
        "validate hf://acme/s\t--no-base": "validate hf://acme/sql --no-base",
        "rules pair\t": "rules pair-incomplete",
    }

    bash = ["bash", "--noprofile", "--norc", "-i"]
    assert typed(bash, "source_bash", "", list(lines), tmp_path) == list(lines.values())


@pytest.mark.usefixtures("cached")
def test_zsh_puts_whole_words_into_its_line(tmp_path: Path) -> None:
    lines = {
        "engines sgl\t": "engines sglang",
        "validate --engine trt\t x": "validate --engine trtllm x",
        "validate acme/s\t": "validate acme/sql",
        "rules pair\t": "rules pair-incomplete",
        "valid\t x": "validate x",
    }
    before = "autoload -U compinit; compinit -D; "
    assert typed(["zsh", "-fi"], "source_zsh", before, list(lines), tmp_path) == list(lines.values())


@pytest.mark.usefixtures("cached")
def test_fish_offers_words_with_what_they_are() -> None:
    script = lora_cli(_LORA_CLI_COMPLETE="source_fish")
    for line, word in {
        "lora-cli engines sgl": "sglang",
        "lora-cli validate acme/s": "acme/sql",
        "lora-cli rules pair": "pair-incomplete",
        "lora-cli valid": "validate",
    }.items():
        (offer,) = run(["fish", "--no-config", "-c", f"{script}; complete -C '{line}'"]).splitlines()
        assert offer.partition("\t")[0] == word


def typed(shell: list[str], script: str, before: str, lines: list[str], folder: Path) -> list[str]:
    """The command lines that a shell at a terminal runs when ``lines`` are typed, TABs included."""
    (folder / "script").write_text(lora_cli(_LORA_CLI_COMPLETE=script))
    (folder / "inputrc").write_text("set bell-style none\nset enable-bracketed-paste off\n")
    said = f'{before}lora-cli() {{ echo "$*" >> said; }}; source ./script; ' + "\n"
    path = f"{command_folder()}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, "TERM": "dumb", "INPUTRC": str(folder / "inputrc")}
    terminal, inside = pty.openpty()
    with subprocess.Popen(
        shell, cwd=folder, env=environ, stdin=inside, stdout=inside, stderr=inside, start_new_session=True
    ):
        os.close(inside)
        os.write(terminal, (said + "".join(f"lora-cli {line}\n" for line in lines) + "exit\n").encode())
        with suppress(OSError):  # how a terminal says that its program has gone
            while os.read(terminal, 4096):
                pass
    os.close(terminal)
    return [line.rstrip() for line in (folder / "said").read_text().splitlines()]


def test_what_begins_a_path_is_left_to_the_shell(tmp_path: Path) -> None:
    assert bash("lora-cli validate ./") == []
    assert zsh("lora-cli validate /srv/") == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lora-cli validate --ignore pair", ["pair-incomplete"]),
        ("lora-cli validate --select LC302", ["LC302"]),
        ("lora-cli validate --fail-on w", ["warning"]),
        ("lora-cli validate --format j", ["json", "junit"]),
        ("lora-cli validate --engine vllm@0.3", ["vllm@0.33", "vllm@0.32", "vllm@0.31"]),
        ("lora-cli warm --engine l", ["lora-cli"]),
        ("lora-cli warm --eviction l", ["lru", "lfu"]),
        ("lora-cli fetch --checkpoint ", ["latest"]),
        ("lora-cli engines nobody@", []),
        ("lora-cli valid", ["validate"]),
        ("lora-cli cache ", ["ls", "show", "verify", "gc", "rm", "path"]),
        ("lora-cli validate acme/", []),
    ],
)
def test_a_word_is_completed(line: str, words: list[str]) -> None:
    assert fish(line) == words


@pytest.mark.parametrize(
    "rest", ["$(touch x)", "`touch x`", "a;touch${IFS}x", "a&b", "a b", "a\nb", "a'b", 'a"b', "\x1b[31m", "*"]
)
@pytest.mark.usefixtures("cached")
def test_a_word_that_a_shell_would_run_is_not_offered(rest: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    record = next(all_records(store))
    for ref in (f"s3://bucket/{rest}", "s3://bucket/modèle_v1"):
        write_record(store, replace(record, ref=ref))
    (store.adapters / f"s3:{rest}").mkdir(parents=True)
    assert bash("lora-cli cache show s3:") == ["//bucket/modèle_v1"]


@pytest.mark.usefixtures("cached")
def test_a_folder_is_offered_as_a_path_unless_its_reference_has_escapes(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    record = next(all_records(store))
    for ref in ("file:///srv/sql", "file:///srv/my%20sql"):
        write_record(store, replace(record, ref=ref))
    assert fish("lora-cli cache show ") == ["/srv/sql", "acme/sql", "file:///srv/my%20sql"]


def test_the_cache_that_is_named_is_the_one_that_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "cache" / "adapters" / "law").mkdir(parents=True)

    assert fish(f"lora-cli --cache-dir {tmp_path / 'cache'} cache rm ") == ["law"]
    assert fish("lora-cli cache rm ") == []


def test_a_tab_costs_little() -> None:
    for words in ("validate ", "cache show ", "engines ", "rules LC5"):
        asked = {"_LORA_CLI_COMPLETE": "complete_bash", "COMP_WORDS": f"lora-cli {words}", "COMP_CWORD": "2"}
        code = f"import os\nos.environ.update({asked!r})\nfrom lora_cli.cli.main import main\nmain([])"
        assert not modules_after(code) & ({*HEAVY} - {"yaml"}), words


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("breaks", [":=@", "=@", ":@", ":=", ""])
def test_bash_completes_whatever_splits_its_words(breaks: str, tmp_path: Path) -> None:
    before = f"COMP_WORDBREAKS=$' \\t\\n{breaks}'; "
    lines = {
        "engines vllm@0.31\tx": "engines vllm@0.31 x",
        "validate --engine=trt\tx": "validate --engine=trtllm x",
        "validate hf://acme/s\t--no-base": "validate hf://acme/sql --no-base",
    }
    bash = ["bash", "--noprofile", "--norc", "-i"]
    assert typed(bash, "source_bash", before, list(lines), tmp_path) == list(lines.values())


@pytest.mark.usefixtures("cached")
def test_the_cache_may_be_named_behind_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = os.environ["LORA_CLI_CACHE_DIR"]
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "empty"))
    assert fish(f"lora-cli cache show --cache-dir {elsewhere} ") == ["acme/sql"]


@pytest.mark.parametrize("rc", [b"", b"export A=1", b"export A=\xe9\n"])
def test_completion_is_installed_in_bash_once_and_spoils_nothing(
    rc: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("lora_cli.cli.completion._shell", lambda: "bash")
    (tmp_path / ".bashrc").write_bytes(rc)
    for _ in range(2):
        assert main(["--install-completion"]) == 0
    lines = (tmp_path / ".bashrc").read_bytes().splitlines()
    assert lines == [*rc.splitlines(), f"source {tmp_path}/.bash_completions/lora-cli.sh".encode()]
    assert main(["--show-completion"]) == 0
    assert "_lora_cli_completion()" in capsys.readouterr().out
    assert main(["fetch", "--", "--install-completion"]) == 2
    (tmp_path / ".bashrc").unlink()
    (tmp_path / ".bashrc").mkdir()
    assert main(["--install-completion"]) == 6
