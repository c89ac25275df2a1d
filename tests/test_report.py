"""Where a report says that things are."""

import os
from pathlib import Path

import pytest

from lora_cli.finding import Location
from lora_cli.judging.report import Naming
from lora_cli.reports.sarif import Place, place_of
from tests.reports.reports import checked

CONFIG = "adapter_config.json"


@pytest.mark.parametrize(
    ("source", "file", "place"),
    [
        ("file:///srv/work/a%20b", CONFIG, Place("a b/adapter_config.json", "below", 1)),
        ("file:///srv/work/a", "x/adapter_model.safetensors", Place("a/x/adapter_model.safetensors", "below")),
        ("file:///srv/work/a", "", Place("a", "below")),
        ("file:///srv/work", CONFIG, Place("adapter_config.json", "below", 1)),
        ("file:///srv/work/a", "../../etc/passwd", Place("a", "below")),
        ("file:///srv/work", "../x", Place(".", "below")),
        ("file:///srv/work/a", "/etc/passwd", Place("a", "below")),
        ("file:///srv/workshop/a", CONFIG, Place("/srv/workshop/a/adapter_config.json", "elsewhere")),
        ("hf://acme/sql/sub@main", CONFIG, Place("hf/acme/sql/sub/adapter_config.json", "remote")),
        ("s3://acme/a@b", "../../x", Place("s3/acme/a@b", "remote")),
        ("gone", "", Place("gone", "remote")),
    ],
)
def test_a_place_is_below_the_folder_elsewhere_or_remote(source: str, file: str, place: Place) -> None:
    assert place_of(Naming(Path("/srv/work")), checked("a", source), Location(file)) == place


@pytest.mark.parametrize(
    ("at", "path"),
    [
        ("set.yaml:7", "set.yaml"),
        ("./manifests/set.yaml:7", "manifests/set.yaml"),
        ("/srv/work/set.yaml:7", "set.yaml"),
        ("../set.yaml:7", None),
        ("/srv/set.yaml:7", None),
    ],
)
def test_what_lies_elsewhere_is_at_its_line_of_a_manifest_below(at: str, path: str | None) -> None:
    naming = Naming(Path("/srv/work"), {"a": at})

    place = place_of(naming, checked("a", "hf://acme/sql"), Location(CONFIG))
    assert place == (Place(path, "below", 7) if path else Place("hf/acme/sql/adapter_config.json", "remote"))


@pytest.mark.parametrize(
    ("field", "line"),
    [("r", 3), ("lora_alpha", 4), ("rank_pattern.*", 5), ("rank_pattern: a.q", 5), ("missing", 1), ("", 1), ("^", 1)],
)
def test_a_field_of_a_config_is_at_its_line(tmp_path: Path, field: str, line: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / CONFIG).write_text(
        '{\n  "note": "r",\n  "r": 4,\n  "lora_alpha" : 8,\n  "rank_pattern": {"r": 2}\n}\n'
    )
    one = checked("a", f"file://{tmp_path}/a")
    assert place_of(Naming(tmp_path), one, Location(CONFIG, field)) == Place(f"a/{CONFIG}", "below", line)
    (tmp_path / "a" / CONFIG).unlink()
    os.mkfifo(tmp_path / "a" / CONFIG)
    assert place_of(Naming(tmp_path), one, Location(CONFIG, field)).line == 1


def test_what_an_adapter_is_called_does_not_depend_on_where_it_lies() -> None:
    naming = Naming(Path("/srv/work"))
    named = Naming(Path("/srv/work"), {"sql": "set.yaml:3"})

    assert naming.identity(checked("x", "file:///srv/work/./a/b")) == "a/b"
    assert naming.identity(checked("x", "hf://acme/sql@main")) == "hf://acme/sql"
    assert naming.identity(checked("x", "file:///elsewhere/a")) == "file:///elsewhere/a"
    assert named.identity(checked("sql", "file:///anywhere/a")) == "sql"
