"""A heat map: a table whose cells have a colour by their value, and the value in words, readable on that colour."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_cli.render.html.markup import Markup, tag
from lora_cli.render.html.page import wide

SCALE = ((247, 251, 255), (198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107))
"""From little to much, as ColorBrewer's Blues (Cynthia Brewer, colorbrewer2.org): one hue, told apart in grey too."""

EMPTY = "#d9d9d9"


@dataclass(frozen=True, slots=True)
class Cell:
    """One value: from 0 (little) to 1 (much) on the scale, how it is written, and what it is in full."""

    level: float
    text: str
    title: str


def heat(
    caption: str, corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell | None]]]
) -> Markup:
    """The table; a cell that is None has no value."""
    heads = tag("tr", tag("th", corner, scope="col"), [tag("th", name, scope="col") for name in columns])
    body = [tag("tr", tag("th", name, scope="row"), [_cell(cell) for cell in cells]) for name, cells in rows]
    inside = tag("table", tag("caption", caption), tag("thead", heads), tag("tbody", body), class_="heat")
    return wide(caption, inside)


def _cell(cell: Cell | None) -> Markup:
    if cell is None:
        return tag("td", "–", style=f"background:{EMPTY};color:#000")
    red, green, blue = colour(cell.level)
    ink = "#000" if luminance((red, green, blue)) > 0.179 else "#fff"
    return tag("td", cell.text, title=cell.title, style=f"background:rgb({red},{green},{blue});color:{ink}")


def colour(level: float) -> tuple[int, int, int]:
    """The colour of a level, which is held between 0 and 1."""
    place = min(max(level, 0.0), 1.0) * (len(SCALE) - 1)
    below = min(int(place), len(SCALE) - 2)
    part = place - below
    red, green, blue = (
        round(low + (high - low) * part) for low, high in zip(SCALE[below], SCALE[below + 1], strict=True)
    )
    return red, green, blue


def luminance(rgb: tuple[int, int, int]) -> float:
    """The relative luminance of an sRGB colour, by WCAG 2.2: at 0.179 black and white are as readable on it."""
    parts = [value / 255 for value in rgb]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
