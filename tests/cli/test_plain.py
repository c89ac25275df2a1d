"""A plain command line means what typer makes of it; every other one is left to typer."""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.cli import app, cache
from lora_cli.cli.main import COMMANDS, root
from lora_cli.cli.plain import NotPlain, read

FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: module.command
    for name in COMMANDS
    if hasattr(module := import_module(f"lora_cli.cli.{name.replace('-', '_')}"), "command")
} | {"root": root}

FUNCTIONS |= {f"cache-{name}": function for name, function in cache.COMMANDS.items()}


UNREAD = {"ctx", "version"}  # --version is typer's alone, and its callback gives nothing


def typers(function: Callable[..., Any]) -> Callable[[list[str]], dict[str, Any] | None]:
    """What typer would call ``function`` with, None where it would not."""
    seen: list[dict[str, Any]] = []

    @wraps(function)
    def record(*args: Any, **kwargs: Any) -> None:
        by_option: dict[str, Any] = {}
        for name, value in kwargs.items():
            fields = getattr(value, "__match_args__", None)
            by_option |= {one: getattr(value, one) for one in fields} if fields is not None else {name: value}
        seen.append({name: value for name, value in by_option.items() if name not in UNREAD})

    group = typer.Typer(add_completion=False)
    group.command()(app._spoken(record))
    command = typer.main.get_command(group)
    app._bind_environment(command)

    def asked(words: list[str]) -> dict[str, Any] | None:
        seen.clear()
        try:
            command.main(args=words, standalone_mode=False)
        except Exception:
            return None
        return seen[0] if seen else None

    return asked


TYPERS = {name: typers(function) for name, function in FUNCTIONS.items()}
LOADED = {name: app.load_command(name) for name in FUNCTIONS if name in COMMANDS}
LOADED |= {f"cache-{name}": command for name, command in getattr(app.load_command("cache"), "commands", {}).items()}
FLAGS = {
    name: sorted({flag for one in command.params for flag in (*one.opts, *one.secondary_opts)})
    for name, command in LOADED.items()
} | {"root": ["--cache-dir", "--config", "--quiet", "-q", "--verbose", "-v", "--no-progress", "--version"]}
WORDS = [
    "x",
    "",
    "-",
    "--",
    "-1",
    "0",
    "1",
    " 7 ",
    "1_0",
    "257",
    "json",
    "human",
    "JSON",
    "cpu",
    "a=b",
    "--values",
    "-fx",
]


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@settings(max_examples=120)
@given(data=st.data())
def test_what_is_plain_means_what_typer_says(name: str, data: st.DataObject) -> None:
    flag, word = st.sampled_from(FLAGS[name]), st.sampled_from(WORDS)
    one = st.one_of(flag.map(lambda f: [f]), word.map(lambda w: [w]), st.tuples(flag, word).map(list))
    joined = st.tuples(flag, word).map(lambda pair: [f"{pair[0]}={pair[1]}"])
    words = [word for part in data.draw(st.lists(st.one_of(one, joined), max_size=5)) for word in part]
    try:
        plain = read(FUNCTIONS[name], words)
    except NotPlain:
        return
    plain.pop("version", None)
    assert plain == TYPERS[name](words)
    assert {key: type(value) for key, value in plain.items()} == {
        key: type(value) for key, value in (TYPERS[name](words) or {}).items()
    }


@pytest.mark.parametrize(
    "line",
    [
        "validate a b --base c",
        "validate --base=c a --no-values -o out.json --format json",
        "validate -f set.yaml --max-lora-rank 8 --ignore LC6 --ignore LC5",
        "fetch a --jobs 4 --to out --locked",
        "fetch -- -a",
        "inspect a b",
        "inspect -f set.yaml --engine-args vllm --max-loras 2 --tp 4",
        "rules",
        "rules LC101 --format=json",
        "root --cache-dir c -q",
        "cache-ls --format json",
        "cache-verify --repair -f set.yaml",
        "cache-gc --max-bytes 50GiB --unused-for 30d --dry-run",
        "cache-rm a b",
        "cache-path",
    ],
)
def test_what_people_write_every_day_is_plain(line: str) -> None:
    name, *words = line.split()
    plain = read(FUNCTIONS[name], words)
    plain.pop("version", None)
    assert plain == TYPERS[name](words)


@pytest.mark.parametrize(
    "line",
    [
        "validate --help",
        "validate a --bases c",
        "validate a --base",
        "validate a --max-lora-rank 0",
        "validate a --max-lora-rank eight",
        "inspect a --format xml",
        "validate a --values=1",
        "validate -fset.yaml",
        "rules LC101 LC102",
        "inspect a --tp 0",
        "root --version",
        "cache-ls a",
        "cache-gc --dry",
    ],
)
def test_what_is_odd_or_wrong_is_left_to_typer(line: str) -> None:
    name, *words = line.split()
    with pytest.raises(NotPlain):
        read(FUNCTIONS[name], words)
