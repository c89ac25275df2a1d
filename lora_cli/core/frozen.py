"""Frozen dataclasses that cost a start-up next to nothing: the standard module's names, for ``frozen`` with ``slots``.

The standard decorator compiles half a dozen methods for each class when its module is imported, of which a run uses
few, and imports ``inspect`` to do so: for the classes of a small ``validate`` that was a third of the run. Here the
methods read the fields by name, and the constructor is compiled when the first value is made. For type checkers, and
for ``dataclasses.fields``, ``asdict`` and ``replace``, the classes are what the standard decorator makes.
"""

from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

_ABSENT: Any = object()


class _Field:
    """What ``field`` says of one field: the standard function's own arguments."""

    def __init__(self, **said: Any) -> None:
        self.said = said


class _Fields:
    """``__dataclass_fields__``, as the standard module makes it, where it is asked for."""

    def __get__(self, instance: object, owner: type) -> dict[str, Any]:
        import dataclasses

        specs = [
            (name, owner.__annotations__[name], dataclasses.field(**field.said))
            for name, field in owner.__frozen_fields__.items()  # type: ignore[attr-defined]
        ]
        made = dataclasses.make_dataclass(owner.__name__, specs, frozen=True)
        fields = {field.name: field for field in dataclasses.fields(made)}
        owner.__dataclass_fields__ = fields  # type: ignore[attr-defined]
        return fields


def _frozen(*, frozen: bool, slots: bool, eq: bool = True) -> "Callable[[type], type]":
    """``dataclasses.dataclass(frozen=True, slots=True)``, for classes without a dataclass among their bases."""
    assert frozen
    assert slots

    def decorated(plain: type) -> type:
        namespace = {name: one for name, one in vars(plain).items() if name not in {"__dict__", "__weakref__"}}
        fields = {name: _field(namespace.pop(name, _ABSENT)) for name in namespace.get("__annotations__", ())}
        compared = [name for name, field in fields.items() if field.said.get("compare", True)]
        methods = _methods(tuple(fields), tuple(compared), [n for n, f in fields.items() if f.said.get("repr", True)])
        for name, method in methods.items():
            if eq or name not in {"__eq__", "__hash__"}:
                namespace.setdefault(name, method)
        namespace |= {
            "__slots__": tuple(fields),
            "__match_args__": tuple(fields),
            "__frozen_fields__": fields,
            "__dataclass_fields__": _Fields(),
        }
        made = type(plain)(plain.__name__, plain.__bases__, namespace)
        made.__init__ = _first_init(made, fields)  # type: ignore[misc]
        return made

    return decorated


def _field(default: Any) -> _Field:
    return default if isinstance(default, _Field) else _Field() if default is _ABSENT else _Field(default=default)


def _first_init(made: type, fields: dict[str, _Field]) -> "Callable[..., None]":
    """A constructor that puts the compiled one in its own place."""

    def init(self: object, *args: Any, **kwargs: Any) -> None:
        compiled = _compiled(made, fields)
        made.__init__ = compiled  # type: ignore[misc]
        compiled(self, *args, **kwargs)

    return init


def _compiled(made: type, fields: dict[str, _Field]) -> "Callable[..., None]":
    """A constructor that stores each argument through its slot, which ``__setattr__`` does not guard."""
    names: dict[str, Any] = {"absent": _ABSENT}
    parameters, body = [], []
    for name, field in fields.items():
        names[f"set_{name}"] = vars(made)[name].__set__
        value, parameter = name, name
        if "default_factory" in field.said:
            names[f"make_{name}"] = field.said["default_factory"]
            value, parameter = f"make_{name}() if {name} is absent else {name}", f"{name}=absent"
        elif "default" in field.said:
            names[f"default_{name}"] = field.said["default"]
            parameter = f"{name}=default_{name}"
        parameters.append(parameter)
        body.append(f" set_{name}(self, {value})")
    exec(f"def __init__(self, {', '.join(parameters)}):\n" + "\n".join(body or [" pass"]), names)  # noqa: S102
    init: Callable[..., None] = names["__init__"]
    init.__qualname__ = f"{made.__qualname__}.__init__"
    return init


def _methods(names: tuple[str, ...], compared: tuple[str, ...], told: list[str]) -> dict[str, Any]:
    """What a frozen value does, by the names of its fields: all, those that ``==`` compares, those that are printed."""
    key = attrgetter(*compared) if compared else lambda self: ()

    def __eq__(self: object, other: object) -> Any:  # noqa: N807
        return key(self) == key(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: object) -> int:  # noqa: N807
        return hash(key(self))

    def __repr__(self: object) -> str:  # noqa: N807
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in told)})"

    def __reduce__(self: object) -> tuple[Any, ...]:  # noqa: N807
        return self.__class__, tuple(getattr(self, name) for name in names)

    return {
        "__eq__": __eq__,
        "__hash__": __hash__,
        "__repr__": __repr__,
        "__reduce__": __reduce__,
        "__setattr__": _refuse,
        "__delattr__": _refuse,
    }


def _refuse(self: object, name: str, *value: object) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot {'assign to' if value else 'delete'} field {name!r}")


def _replaced(value: Any, /, **changes: Any) -> Any:
    """``dataclasses.replace``."""
    cls = value.__class__
    return cls(**{name: getattr(value, name) for name in cls.__match_args__} | changes)


def defaults_of(cls: Any) -> dict[str, Any]:
    """The default of each field that has one, without the standard module's import."""
    return {name: field.said["default"] for name, field in cls.__frozen_fields__.items() if "default" in field.said}


if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace
else:
    dataclass, field, replace = _frozen, _Field, _replaced

__all__ = ["dataclass", "defaults_of", "field", "replace"]
