"""Reports as self-contained HTML pages without scripts, from the templates in ``templates/``.

Whatever enters a template passes ``safe`` and is escaped: no name of an adapter becomes markup.
"""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lora_cli.judging.result import Report
from lora_cli.reports.validate import adapter_table, causes, codes_of
from lora_cli.reports.words import summary
from lora_cli.text import by_key, safe, size
from lora_cli.version import __version__

KINDS = {"green": "good", "yellow": "warning", "red": "error"}
"""The class of style.css for the style of a cell of a table."""


def templates() -> Environment:
    """The jinja2 environment: text is escaped, undefined variables are errors, and no text can be marked as safe."""
    environment = Environment(
        loader=PackageLoader("lora_cli.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        # Markup of macros stays; control characters of all other values are escaped.
        finalize=lambda value: value if isinstance(value, Markup) else safe(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    del environment.filters["safe"]
    environment.filters["kind"] = _kind
    environment.globals["version"] = __version__
    return environment


def _kind(cell: object) -> str:
    """The class of a cell: that of the first style of a rich text."""
    spans = getattr(cell, "spans", ())
    return KINDS.get(str(spans[0].style), "") if spans else ""


def page(name: str, **values: Any) -> str:
    """The page of the template ``name`` with these values."""
    return templates().get_template(f"{name}.html.j2").render(values)


def render_report(report: Report) -> str:
    """The HTML page: adapters by engines with their sizes, and the findings by cause, the worst first."""
    header, rows = adapter_table(report.adapters)
    sizes = [size(one.bytes) if one.bytes else "-" for one in report.adapters]
    skipped = by_key((one.reason, one.code) for result in report.adapters for one in result.skipped)
    known = [one.code for _, one in report.found() if one.accepted is not None]
    others = [("known", codes_of(known)), *(("skipped", f"{why}: {codes_of(codes)}") for why, codes in skipped.items())]
    return page(
        "validate",
        title="lora-cli validate",
        report=report,
        summary=summary(report),
        header=[*header, "size"],
        rows=[(*row, taken) for row, taken in zip(rows, sizes, strict=True)],
        causes=causes(report),
        others=others,
    )
