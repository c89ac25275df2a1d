"""What people read: as ``golden/screens.txt`` has it, in any width, and nothing in it obeys a name."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.text import Text

from lora_cli.reports.terminal import Paragraph, rendered, table
from lora_cli.text import safe
from tests.reports.reports import HOSTILE
from tests.reports.screens import screens

GOLDEN = Path(__file__).parent / "golden" / "screens.txt"
"""``GOLDEN=write`` writes it: look at the difference before you commit it."""


def test_each_screen_is_as_its_golden_file_says() -> None:
    shown = "".join(f"===== {name}\n{rendered(parts, 80)}" for name, parts in screens("sql").items())
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.write_text(shown, encoding="utf-8")
    assert shown == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("word", [HOSTILE, "\udc80", f"[red]{HOSTILE}[/red] :smile: [link=http://evil]x[/link]"])
def test_no_name_moves_the_cursor_or_is_markup(word: str, colour: bool) -> None:
    for name, parts in screens(word).items():
        page = rendered(parts, 4000, colour=colour)
        assert "\x1b[1;36m" not in page, "numbers have no colour"
        plain = re.sub(r"\x1b\[\d+(;\d+)*m", "", page)
        assert all(line.isprintable() for line in plain.splitlines()), name
        if not name.startswith(("validate", "rules", "engines", "cache gc, verbose")):
            assert safe(word) in plain, name


@pytest.mark.parametrize("width", [80, 160])
def test_lines_are_broken_at_blanks_and_only_a_long_word_is_longer(width: int) -> None:
    for name, parts in screens("sql").items():
        for line in rendered(parts, width).splitlines():
            assert len(line) <= width or len(line.split()) <= 2 or "vllm serve" in line or "--" in line, name


@given(st.text(st.sampled_from("ab-\t\u3000 [/]:"), max_size=90), st.integers(24, 60), st.sampled_from(["", "hint: "]))
@example(f"{'a' * 10} {'b' * 10}", 24, "")
def test_a_paragraph_keeps_its_words_in_the_width(value: str, width: int, label: str) -> None:
    lines = rendered([Paragraph(value, label, indent=4)], width).splitlines()
    assert " ".join(lines).split() == (label + safe(value)).split()
    assert all(len(line) <= width or len(line.split()) == 1 + (line == lines[0] and bool(label)) for line in lines)
    assert all(line.startswith(" " * 6) for line in lines[1:] if label)


@given(st.text())
def test_safe_text_is_printable_and_what_is_printable_stays(value: str) -> None:
    printable = "".join(filter(str.isprintable, value))
    assert (safe(value).isprintable(), safe(printable)) == (True, printable)


def test_a_table_leaves_out_empty_columns_and_folds_what_is_too_wide() -> None:
    rows = [("sql", "-", None, 10), ("x" * 60, "", None, Text("2", "red"))]
    assert rendered([table(("name", "rank", "slot", "n"), rows)], 80).splitlines()[1].split() == ["sql", "10"]
    narrow = rendered([table(("name", "rank", "slot", "n"), rows)], 40)
    assert all(len(line) <= 40 for line in narrow.splitlines())
    assert narrow.count("x") == 60
    tight = rendered([table(("name", "n", "m"), [("x" * 60, "y" * 60, "z" * 60)])], 20)
    assert f"{'y' * 10}  {'z' * 10}" in tight, "the first column is folded first"
