"""A warm run under way fits every terminal."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lora_cli.render.human.meter import Row
from lora_cli.render.human.stages import Stages, render_stages

MIB = 1 << 20
STAGES = Stages("sql", "proof", "proved", 3, 40, 0, 12.4)


def test_who_is_in_which_stage_and_how_many_are_through() -> None:
    assert render_stages(STAGES, 80) == ["sql  proof", f"{'━' * 2}{'─' * 28} 3 of 40 proved, 12 s"]
    assert render_stages(replace(STAGES, failed=2), 80)[1].endswith(" 3 of 40 proved, 2 failed, 12 s")
    assert render_stages(replace(STAGES, name="", count=1), 80) == ["3 of 1 proved, 12 s"]


def test_bytes_that_are_fetched_have_a_bar_where_there_is_room() -> None:
    fetching = replace(STAGES, stage="fetch", through="accepted", row=Row("sql", 42 * MIB, 84 * MIB))
    line, _ = render_stages(fetching, 80)
    assert line.startswith("sql  fetch  ")
    assert line.endswith(" 42.0 MiB of 84.0 MiB")
    assert "━─" in line
    assert render_stages(fetching, 30)[0] == "sql  fetch"
    assert "##--" in "".join(render_stages(fetching, 80, plain=True))


@given(st.text(), st.sampled_from(["proof", "waits for another process that fetches it"]), st.integers(8, 200))
def test_no_line_is_wider_than_the_terminal(name: str, stage: str, width: int) -> None:
    row = Row("x", 5, 10)
    for shown in (STAGES, replace(STAGES, failed=1000), replace(STAGES, row=row)):
        lines = render_stages(replace(shown, name=name, stage=stage), width)
        assert len(lines) <= 2
        assert all(len(line) <= width and line.isprintable() for line in lines)
