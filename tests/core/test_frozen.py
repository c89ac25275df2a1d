"""Our frozen dataclasses beside the standard module's: the same class body, and nothing that tells them apart."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from lora_cli.core import frozen


def made_by(module: Any) -> Any:
    """A class with every kind of field that ours have."""

    @module.dataclass(frozen=True, slots=True)
    class Sample:
        """What it is."""

        name: str
        size: int = 3
        parts: dict[str, int] = module.field(default_factory=dict)
        secret: str = module.field(default="", repr=False)
        note: str = module.field(default="", compare=False)

        @property
        def double(self) -> int:
            """Twice the size."""
            return 2 * self.size

    Sample.__qualname__ = "Sample"
    return Sample


OURS, STANDARD = made_by(frozen), made_by(dataclasses)
Sample = OURS  # pickle looks a class up under its name


@frozen.dataclass(frozen=True, slots=True)
class Fresh:
    """A class of which no value was made before."""

    left: int
    right: int = 0


@frozen.dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Equal to itself only."""

    left: int


ASKED: tuple[Callable[[Any], Any], ...] = (
    lambda cls: repr(cls("a", 1, {"k": 2}, "hidden", "said")),
    lambda cls: (cls("a") == cls("a"), cls("a") == cls("b"), cls("a") == "a", cls("a") != cls("a", 4)),
    lambda cls: cls("a", note="one") == cls("a", note="two"),
    lambda cls: cls("a").parts is cls("a").parts,
    lambda cls: [getattr(cls("a", secret="s"), name) for name in cls.__match_args__] + [cls("a").double],
    lambda cls: dataclasses.asdict(cls("a", parts={"k": 1})),
    lambda cls: [(one.name, one.type, one.repr, one.compare, one.init) for one in dataclasses.fields(cls("a"))],
    lambda cls: (dataclasses.is_dataclass(cls), dataclasses.replace(cls("a", 5), name="b").size),
    lambda cls: (cls.__doc__, cls.__slots__, cls.__match_args__, cls.__annotations__),
    lambda cls: hasattr(cls("a"), "__dict__"),
    lambda cls: cls(),
    lambda cls: cls("a", nothing=1),
    lambda cls: cls("a", 1, {}, "", "", 6),
    lambda cls: cls("a", name="b"),
    lambda cls: setattr(cls("a"), "name", "b"),
    lambda cls: delattr(cls("a"), "name"),
    lambda cls: hash(cls("a")),  # a dictionary in it: no hash
)


def outcome(ask: Callable[[Any], Any], cls: Any) -> tuple[str, str]:
    """What was answered, or raised."""
    try:
        return "answered", repr(ask(cls))
    except Exception as error:
        return type(error).__name__, str(error).replace("made_by.<locals>.", "")


@pytest.mark.parametrize("ask", ASKED)
def test_it_answers_as_the_standard_one_does(ask: Callable[[Any], Any]) -> None:
    ours, standard = outcome(ask, OURS), outcome(ask, STANDARD)
    assert ours[0] == standard[0]
    if ours[0] != "TypeError":  # the standard one words a wrong call as Python does, and so does ours
        assert ours[1] == standard[1]
    else:
        assert ours[1].rpartition("()")[2] == standard[1].rpartition("()")[2]


def test_it_survives_a_pickle_and_a_copy() -> None:
    value = OURS("a", 1, {"k": 2}, "s", "n")
    for again in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value), frozen.replace(value)):
        assert again == value
        assert again is not value
        assert (again.secret, again.note) == ("s", "n")


def test_replace_works_for_both() -> None:
    assert frozen.replace(OURS("a", 1), size=2) == OURS("a", 2)
    assert frozen.replace(STANDARD("a", 1), size=2) == STANDARD("a", 2)
    with pytest.raises(TypeError):
        frozen.replace(OURS("a"), nothing=1)


def test_equal_values_have_one_hash() -> None:
    assert len({Fresh(1), Fresh(1, 0), Fresh(2)}) == 2


def test_where_it_says_so_only_the_same_value_is_equal() -> None:
    one = Held(1)
    assert one == one
    assert one != Held(1)
    assert len({one, Held(1), Held(1)}) == 3
