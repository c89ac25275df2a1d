"""What is drawn in a terminal: nothing in it can move a cursor or be markup, and nothing worth copying is cut."""

import re
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import RenderableType
from rich.text import Text

from lora_cli.reports.cache import CachedReference, CachedSnapshot, CacheReport, human
from lora_cli.reports.terminal import MIN_WIDTH, Paragraph, facts, rendered, table, table_or_blocks, text
from lora_cli.text import safe
from tests.reports.reports import HOSTILE

NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@given(
    st.text(st.sampled_from("ab-\t\u3000   [/]:"), max_size=90),
    st.integers(1, 60),
    st.sampled_from([0, 4]),
    st.sampled_from(["", "hint: "]),
)
def test_lines_break_where_the_standard_library_breaks_them(value: str, width: int, indent: int, label: str) -> None:
    standard = textwrap.wrap(
        safe(value),
        max(width, MIN_WIDTH),
        initial_indent=" " * indent + label,
        subsequent_indent=" " * (indent + 2 if label else indent),
        break_long_words=False,
        break_on_hyphens=False,
    )
    drawn = rendered([Paragraph(value, label, indent=indent)], width).splitlines()
    assert drawn == [line.rstrip() for line in standard or [" " * indent + label]]


def test_a_long_name_stays_whole() -> None:
    assert NAME in rendered([Paragraph(f"the tensor {NAME} is odd")], 40)


@pytest.mark.parametrize("colour", [True, False])
def test_text_of_others_is_neither_markup_nor_a_command_to_the_terminal(colour: bool) -> None:
    hostile = f"[red]{HOSTILE}[/red] :smile: [link=http://evil]x[/link]"
    drawn = rendered(
        [Paragraph(hostile), table(["a"], [[hostile]]), *facts([("name", hostile)]), text(hostile)], 4000, colour=colour
    )
    plain = re.sub(r"\x1b\[\d+(;\d+)*m", "", drawn)
    assert plain.count(safe(hostile)) == 4
    assert all(line.isprintable() for line in plain.splitlines())


def test_colours_are_there_only_where_they_are_asked_for() -> None:
    parts: list[RenderableType] = [Paragraph("why", Text("error: ", "red")), table(["adapter"], [["sql"]])]
    assert rendered(parts, 80) == "error: why\nadapter\nsql\n"
    assert "\x1b[31merror: \x1b[0m" in rendered(parts, 80, colour=True)


def test_labelled_values_line_up_and_empty_ones_are_left_out() -> None:
    rows: list[tuple[str, object]] = [("rank", 4), ("task", ""), ("dtype", "BF16"), ("slot", None)]
    assert rendered(facts(rows), 80) == "  rank   4\n  dtype  BF16\n"


def test_a_column_is_as_wide_as_its_widest_cell_and_folded_where_it_is_narrow() -> None:
    assert rendered([table(("name", "n"), [("a", 10), ("longer", 2)])], 80) == "name     n\na       10\nlonger   2\n"
    narrow = rendered([table(("name", "n"), [("x" * 60, 10)])], 40)
    assert all(len(line) <= 40 for line in narrow.splitlines())
    assert narrow.count("x") == 60


def test_a_column_in_which_no_row_says_anything_is_left_out() -> None:
    rows = [("sql", "-", None, "8/8"), ("chat", "", None, "-")]
    assert rendered([table_or_blocks(("adapter", "rank", "slot", "applied"), rows)], 80) == (
        "adapter  applied\nsql          8/8\nchat           -\n"
    )


def test_names_are_cut_where_a_table_is_too_wide_as_long_as_they_stay_different() -> None:
    def drawn(*names: str, width: int) -> list[str]:
        rows = [(name, "downloaded", "1.5 MiB") for name in names]
        return rendered([table_or_blocks(("adapter", "status", "size"), rows, names=True)], width).splitlines()

    one, other = "customer-support-german-2026", "customer-support-french-2026"
    assert drawn(one, other, width=60)[1].startswith(one)
    assert [line.split()[0] for line in drawn(one, "sql", width=40)] == ["adapter", "custom…-2026", "sql"]
    assert drawn("a" + one, "b" + one, width=40)[1].startswith("acusto…")
    assert drawn(one, other.replace("french", "frgman"), width=40) == [
        one, "  status downloaded, size 1.5 MiB", other.replace("french", "frgman"), "  status downloaded, size 1.5 MiB"
    ]  # fmt: skip


def test_what_is_coloured_stays_so_where_it_is_too_long_for_a_line() -> None:
    label = Text.assemble("/a/path/that/is/long/enough: ", ("refused", "red"))
    assert "\x1b[31mrefused" in rendered([Paragraph(", 0/1 modules apply", label)], 30, colour=True)


def test_a_table_of_snapshots_has_at_least_14_columns_of_a_reference() -> None:
    reference = CachedReference(ref=f"org/{'r' * 60}", selection="", revision="", origin="", used_s=0)
    snapshot = CachedSnapshot(
        sha256="ab" * 32, directory="/d", bytes=1, used_s=0, references=[reference],
        files=[],
    )  # fmt: skip
    report = CacheReport(cache="/c", bytes=1, snapshots=[snapshot])
    drawn = (rendered(human(report, width), width).splitlines() for width in range(40, 200))
    _, cell, *_ = next(lines[1] for lines in drawn if "reference" in lines[0]).split()
    assert len(cell) == 14


def test_a_table_that_just_fits_is_one() -> None:
    drawn = [table_or_blocks(("name", "size"), [("a" * 20, "1")])]
    width = max(map(len, rendered(drawn, 200).splitlines()))
    assert rendered(drawn, width) == rendered(drawn, 200) != rendered(drawn, width - 1)
