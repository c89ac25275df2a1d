"""Report models as JSON: the rules of ``lora_cli.json_schema``, and that no command needs pydantic for them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from lora_cli.json_schema import EXCLUDED, INLINE, to_json


@dataclass(frozen=True, slots=True)
class Size:
    width: int
    height: float | None


@dataclass(frozen=True, slots=True)
class Report:
    with_: str
    size: Size = field(metadata=INLINE)
    sizes: tuple[Size, ...]
    more: Mapping[str, str] = field(metadata=INLINE)
    left_out: str | None = None
    kept: str | None = None
    only_shown: str = field(default="", metadata=EXCLUDED)


def test_a_model_is_an_object_with_its_fields_in_their_order() -> None:
    report = Report("a", Size(1, None), (Size(2, 2.5),), {"gpu_": "H100"}, kept="b")
    document = json.loads(to_json(report))

    assert list(document.items()) == [
        ("with", "a"),
        ("width", 1),
        ("height", None),
        ("sizes", [{"width": 2, "height": 2.5}]),
        ("gpu_", "H100"),
        ("kept", "b"),
    ]


def test_what_no_json_has_is_null_or_escaped_in_a_model_too() -> None:
    assert json.loads(to_json(Size(1, float("nan")))) == {"width": 1, "height": None}
    assert "##" not in to_json(Report("##[error]", Size(1, 1), (), {}))
