"""What ``--help`` and the docs show in 80 columns."""

from typing import Any

import pytest

from lora_cli.cli.cache import COMMANDS as OF_CACHE
from lora_cli.cli.main import COMMANDS, load_command
from tests.cli.running import Run
from tests.conftest import ROOT

WORDS = [[name] for name in COMMANDS if name != "cache"] + [["cache", name] for name in OF_CACHE]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_m18_a_screen_has_each_option_and_example_whole_and_says_where_the_global_ones_are(
    words: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    command: Any = load_command(words[0])
    for word in words[1:]:
        command = command.commands[word]
    for columns in ("80", "120"):
        monkeypatch.setenv("COLUMNS", columns)
        text = run(f"{' '.join(words)} --help").out
        assert max(map(len, text.splitlines())) <= int(columns)
        assert "…" not in text
        for option in command.params:
            assert option.hidden or all(flag in text for flag in option.opts if flag[0] == "-"), option.opts
        assert not {"--cache-dir", "<list[str]>", "<int>"} & {*text.split()}
        assert "Global options such as --quiet, --verbose and --offline: lora-cli --help" in text
        examples = text.partition("Examples:")[2].split("\n")
        assert any(line.strip().startswith(f"$ lora-cli {' '.join(words)}") for line in examples)
        assert all(line.strip().startswith("$ ") for line in examples if line.strip()), "none is wrapped"
    assert run(f"{' '.join(words)} -h").out == text


def test_the_root_names_all_commands_and_the_global_options(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = " ".join(run("--help").out.replace("│", " ").split())
    assert [one for one in COMMANDS.values() if one not in text] == []
    assert {"--cache-dir", "--offline", "--quiet", "--verbose", "--version"} <= {*text.split()}
    text = " ".join(run("cache --help").out.replace("│", " ").split())
    told = [" ".join((function.__doc__ or "").partition(".")[0].split()) for function in OF_CACHE.values()]
    assert [one for one in told if one not in text] == []


@pytest.mark.parametrize(
    ("page", "line", "code"),
    [
        ("inspect.md", "inspect manifests/quickstart/zubrowka --base manifests/quickstart/smollm2-135m", 0),
        ("inspect.md", "inspect manifests/quickstart/pirate --diff manifests/quickstart/zubrowka", 0),
        ("validate.md", "validate manifests/quickstart/zubrowka --base manifests/quickstart/smollm2-135m", 1),
    ],
)
def test_the_docs_show_what_is_printed(
    page: str, line: str, code: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").replace("\\\n    ", "")
    more, _, shown = text.partition(f"$ lora-cli {line}")[2].partition("```")[0].partition("\n")
    out = run(f"{line}{more}", code).out
    for part in filter(None, shown.split("…\n")):
        assert part in out
        out = out.partition(part)[2]
