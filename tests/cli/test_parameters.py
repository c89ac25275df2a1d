"""A command that takes a dataclass is told each of its fields as an option of its own."""

from dataclasses import dataclass
from typing import Annotated

from lora_cli.cli import typer
from lora_cli.cli.parameters import REQUIRED, Parameter, gathered, parameters

PORT = Annotated[int, typer.Option(min=1)]


@dataclass(frozen=True, slots=True)
class Listening:
    host: Annotated[str, typer.Option()] = "127.0.0.1"
    port: PORT = 8321
    seed: int = 0


def command(ctx: typer.Context, ref: str, *, once: bool = False, listening: Listening, jobs: int = 4) -> None: ...


def test_the_fields_stand_where_the_dataclass_does() -> None:
    assert list(parameters(command)) == ["ctx", "ref", "once", "host", "port", "jobs"]


def test_a_field_that_is_no_option_keeps_its_default() -> None:
    given = {"ctx": None, "ref": "a", "once": True, "host": "::1", "port": 1, "jobs": 2}
    assert gathered(command, given)["listening"].seed == 0


def test_each_has_its_hint_and_its_default() -> None:
    found = parameters(command)
    assert found["ref"] == Parameter(str, REQUIRED)
    assert found["once"] == Parameter(bool, False)
    assert found["port"] == Parameter(PORT, 8321)


def test_what_is_given_by_option_is_gathered_for_the_call() -> None:
    given = {"ctx": None, "ref": "a", "once": True, "host": "::1", "port": 1, "jobs": 2}
    assert gathered(command, given) == {
        "ctx": None,
        "ref": "a",
        "once": True,
        "listening": Listening("::1", 1),
        "jobs": 2,
    }
