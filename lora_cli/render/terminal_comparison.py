"""What ``inspect --diff`` prints: one word, how far all updates are apart, and tables of what differs."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from lora_cli.core.comparison import Comparison
from lora_cli.render.comparison_facts import facts_of, tables_of
from lora_cli.render.terminal import Paragraph, facts, hints, in_json, table_or_blocks

STYLES = {"equal": "green", "scaled": "yellow", "related": "yellow", "unrelated": "cyan", "unknown": "red"}
MOST_ROWS = 20


def comparison_parts(name: str, one: Comparison) -> Iterator[RenderableType]:
    """``name`` is A, the adapter that is inspected; B is the other."""
    yield Text("diff", "bold")
    yield Paragraph(one.reason, Text.assemble((one.word, STYLES[one.word]), ": "), indent=2)
    yield from (*hints(one.hint), "", *facts(facts_of(name, one)))
    for table in tables_of(one):
        rows = [[Text(cell, STYLES.get(cell, "")) for cell in row] for row in table.rows[:MOST_ROWS]]
        yield from ("", Text(table.caption, "bold"), table_or_blocks(table.header, rows, left=table.text))
        yield from in_json(len(table.rows) - MOST_ROWS)
