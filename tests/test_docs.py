"""The generated pages say what the rules and the engines' profiles say now."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("file", ["rules.md", "engines.md"])
def test_a_generated_page_is_as_it_would_be_generated_now(file: str) -> None:
    pages = runpy.run_path(str(DOCS / "build.py"))["pages"]()

    assert (DOCS / file).read_text(encoding="utf-8") == pages[file], "run make docs"
