"""The pages say what commands, checks, engines and documents say now, and are no more than they may be."""

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("file", ["cli.md", "rules.md", "engines.md", "manifest.md"])
def test_a_generated_page_is_as_it_would_be_generated_now(file: str) -> None:
    pages = runpy.run_path(str(DOCS / "build.py"))["pages"]()

    assert (DOCS / file).read_text(encoding="utf-8") == pages[file], "run make docs"


def test_every_schema_is_as_it_would_be_generated_now() -> None:
    folder = DOCS.parent / "manifests" / "schemas"
    schemas = runpy.run_path(str(DOCS / "schemas.py"))["schemas"]()

    assert schemas == {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}, "run make docs"


def test_every_metric_is_told_of_and_none_that_there_is_not() -> None:
    files = [*(DOCS.parent / "lora_cli").rglob("*metrics.py"), DOCS.parent / "lora_cli/warm/api.py"]
    code = "".join(path.read_text(encoding="utf-8") for path in files)
    there = set(re.findall(r'"(lora_cli_[a-z_]+)"', code))
    pages = "".join((DOCS / page).read_text(encoding="utf-8") for page in ("warm.md", "plugins.md"))
    told = set(re.findall(r"`(lora_cli_[a-z_]+)", pages)) - {"lora_cli_resolver"}
    assert told == there
