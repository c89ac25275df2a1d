"""Report models as JSON: the rules of ``lora_cli.core.json_schema``, and that no command needs pydantic for them."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from lora_cli.core.json_schema import EXCLUDED, INLINE
from lora_cli.render.json import encoded
from tests.conftest import QUICKSTART


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
    document = json.loads(encoded(report))

    assert list(document.items()) == [
        ("with", "a"),
        ("width", 1),
        ("height", None),
        ("sizes", [{"width": 2, "height": 2.5}]),
        ("gpu_", "H100"),
        ("kept", "b"),
    ]


def test_what_no_json_has_is_null_or_escaped_in_a_model_too() -> None:
    assert json.loads(encoded(Size(1, float("nan")))) == {"width": 1, "height": None}
    assert "##" not in encoded(Report("##[error]", Size(1, 1), (), {}))


@pytest.mark.parametrize("command", [["validate", "--no-base"], ["inspect"]])
def test_json_is_printed_without_pydantic(command: list[str]) -> None:
    code = f"import sys\nfrom lora_cli.cli.main import main\nmain([*{command!r}, sys.argv[1], '--format', 'json'])"
    report = "\nsys.stderr.write(' '.join(sys.modules))"
    argv = [sys.executable, "-c", code + report, str(QUICKSTART / "pirate")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)["adapters"][0]["error"] is None
    assert "lora_cli.core.json_schema" in done.stderr.split()
    assert "pydantic" not in done.stderr.split()
