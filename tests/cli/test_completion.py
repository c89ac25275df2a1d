"""What a shell is offered after a TAB, by typer's scripts."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from lora_cli.checks import CHECKS
from lora_cli.cli.main import main
from lora_cli.engines import ENGINES
from tests import forked
from tests.cli.test_startup import HEAVY, modules_after

pytestmark = pytest.mark.slow

Offered = Callable[[str], list[str]]


def lora_cli(**environ: str) -> str:
    """What it tells a shell that asks in these variables."""
    done = forked.run([], {**os.environ, **environ})
    assert done.err == ""
    return done.out


def run(argv: list[str]) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(argv, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


def bash(line: str) -> list[str]:
    words = line.split(" ")
    return lora_cli(_LORA_CLI_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1)).split()


def zsh(line: str) -> list[str]:
    words = lora_cli(_LORA_CLI_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
    return (
        [] if words == "_files\n" else [word.split('"')[1] for word in words.split("((")[1].splitlines() if '"' in word]
    )


def fish(line: str) -> list[str]:
    asked = {"_LORA_CLI_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    return [word.partition("\t")[0] for word in lora_cli(**asked, _TYPER_COMPLETE_ARGS=line).split("\n") if word]


@pytest.mark.parametrize("offered", [bash, zsh, fish], ids=lambda shell: shell.__name__)
def test_each_shell_is_offered_engines_and_rules(offered: Offered) -> None:
    assert offered("lora-cli engines ") == list(ENGINES)
    assert offered("lora-cli rules LC50") == [rule.code for rule in CHECKS if rule.code.startswith("LC50")]


@pytest.mark.parametrize(
    ("shell", "script", "before"),
    [
        (["bash", "--noprofile", "--norc", "-i"], "source_bash", ""),
        (["zsh", "-fi"], "source_zsh", "autoload -U compinit; compinit -D; "),
    ],
    ids=["bash", "zsh"],
)
def test_a_shell_puts_whole_words_into_its_line(shell: list[str], script: str, before: str, tmp_path: Path) -> None:
    lines = {
        "engines sgl\t": "engines sglang",
        "rules pair\t": "rules pair-incomplete",
        "valid\t x": "validate x",
    }
    assert typed(shell, script, before, list(lines), tmp_path) == list(lines.values())


def test_fish_offers_words_with_what_they_are() -> None:
    script = lora_cli(_LORA_CLI_COMPLETE="source_fish")
    for line, word in {
        "lora-cli engines sgl": "sglang",
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
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
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
        ("lora-cli validate --engine vllm@0.3", ["vllm@0.33", "vllm@0.32"]),
        ("lora-cli warm --engine l", ["lora-cli"]),
        ("lora-cli engines nobody@", []),
        ("lora-cli valid", ["validate"]),
        ("lora-cli cache ", ["ls", "show", "verify", "gc", "rm", "path"]),
        ("lora-cli validate acme/", []),
    ],
)
def test_a_word_is_completed(line: str, words: list[str]) -> None:
    assert fish(line) == words


def test_a_tab_costs_little() -> None:
    for words in ("validate ", "cache show ", "engines ", "rules LC5"):
        asked = {"_LORA_CLI_COMPLETE": "complete_bash", "COMP_WORDS": f"lora-cli {words}", "COMP_CWORD": "2"}
        code = f"import os\nos.environ.update({asked!r})\nfrom lora_cli.cli.main import main\nmain([])"
        assert not modules_after(code) & ({*HEAVY} - {"yaml"}), words


def test_completion_is_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("typer._completion_shared._get_shell_name", lambda: "bash")
    for _ in range(2):
        assert main(["--install-completion"]) == 0
    script = tmp_path / ".bash_completions" / "lora-cli.sh"
    assert (tmp_path / ".bashrc").read_text().split() == ["source", f"'{script}'"]
    assert "_LORA_CLI_COMPLETE=complete_bash" in script.read_text()
