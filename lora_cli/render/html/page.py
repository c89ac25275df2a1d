"""The page of every report: its head, its style, and the few elements that reports are made of."""

from collections.abc import Iterable, Sequence

from lora_cli import __version__
from lora_cli.render.html.markup import Child, Markup, joined, tag

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser is told that the page may load: nothing."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #4a525c; --paper: #ffffff; --panel: #f4f6f8;
  --line: #c9d0d8;
  --link: #0b4f9e; --good: #14602b; --bad: #a3161f; --warn: #7a4a00; --note: #0b4f9e; --bar: #2b6cb0;
  --c0: #0b4f9e; --c1: #a3161f; --c2: #14602b; --c3: #7a4a00; --c4: #6b2fa0; --c5: #006a73; --c6: #8a1c63;
  --c7: #4a525c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebee; --soft: #b3bcc6; --paper: #14171b; --panel: #1e2328;
  --line: #424a53; --link: #8cbcf5; --good: #7fd698; --bad: #ff9a9f; --warn: #f0c070; --note: #8cbcf5;
  --bar: #6aa5e8; --c0: #8cbcf5; --c1: #ff9a9f; --c2: #7fd698; --c3: #f0c070; --c4: #c9a0f0; --c5: #6fd3dc;
  --c6: #f29bd0; --c7: #b3bcc6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.25rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
p, dl, ul { margin: .5rem 0; } .soft { color: var(--soft); }
code, .mono { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .9em; }
pre { padding: .75rem; background: var(--panel); border: 1px solid var(--line); overflow-x: auto;
  overflow-wrap: normal; }
dl.facts { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .125rem 1rem; }
dl.facts dt { color: var(--soft); } dl.facts dd { margin: 0; }
@media (max-width: 30rem) { dl.facts { grid-template-columns: 1fr; gap: 0; } dl.facts dd { margin: 0 0 .5rem 1rem;
  } }
.wide { overflow-x: auto; border: 1px solid var(--line); margin: .75rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; padding: .375rem .5rem; color: var(--soft); }
th, td { padding: .25rem .5rem; text-align: right; border-top: 1px solid var(--line); white-space: nowrap; }
th { background: var(--panel); } th:first-child, .text { text-align: left; } td.text { white-space: normal; }
td .bar { display: block; min-width: 1px; height: .75rem; background: var(--bar); print-color-adjust: exact;
  -webkit-print-color-adjust: exact; } td:has(.bar) { width: 40%; min-width: 6rem; }
table.heat th:not(:first-child) { text-align: center; }
table.heat td { text-align: center; padding: .125rem .25rem; border: 1px solid var(--paper); font-size: .8rem;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.good { color: var(--good); } .error { color: var(--bad); } .warning { color: var(--warn); }
  .note { color: var(--note); }
.badge { display: inline-block; padding: 0 .5rem; border: 2px solid currentColor; border-radius: .25rem;
  margin-right: .5rem;
  font-weight: 600; }
details { border: 1px solid var(--line); margin: .5rem 0; } summary { padding: .375rem .5rem;
  background: var(--panel); }
details > :not(summary) { margin: .5rem; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
a { color: var(--link); }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--ink); font-size: 12px; }
figure { margin: 1rem 0; } figcaption { color: var(--soft); } svg.chart { min-width: 34rem; }
.grid { stroke: var(--line); } .curve { fill: none; stroke-width: 2.5; } ul.legend { list-style: none; padding: 0;
  display: flex; flex-wrap: wrap; gap: .25rem 1rem; } .legend svg { display: inline-block; width: 1.75rem; }
.c0 { --mark: var(--c0); } .c1 { --mark: var(--c1); } .c2 { --mark: var(--c2); } .c3 { --mark: var(--c3); }
.c4 { --mark: var(--c4); } .c5 { --mark: var(--c5); } .c6 { --mark: var(--c6); } .c7 { --mark: var(--c7); }
.curve { stroke: var(--mark); } rect.bar { fill: var(--mark); print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
footer { margin-top: 2rem; border-top: 1px solid var(--line); color: var(--soft); }
@media print { :root { color-scheme: light; --ink: #000; --soft: #333; --paper: #fff; --panel: #f4f4f4;
  --line: #999;
  --good: #14602b; --bad: #a3161f; --warn: #7a4a00; --note: #0b4f9e; --link: #000; --c0: #0b4f9e; --c1: #a3161f;
  --c2: #14602b; --c3: #7a4a00; --c4: #6b2fa0; --c5: #006a73; --c6: #8a1c63; --c7: #4a525c; }
  body { max-width: none; padding: 0; font-size: 10pt; } .wide { overflow: visible; border: 0; }
  details > summary { list-style: none; } section, table, details { break-inside: auto; }
  tr, h2, h3 { break-inside: avoid; } }
"""


def page(title: str, *body: Child) -> str:
    """A whole file: what it is called, and what stands in it."""
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    foot = tag("footer", tag("p", f"Written by lora-cli {__version__}. One file: it loads nothing and runs nothing."))
    whole = tag("html", tag("head", head), tag("body", tag("main", body), foot), lang="en")
    return f"<!doctype html>\n{whole}\n"


def facts(rows: Iterable[tuple[str, Child]]) -> Markup:
    """Labelled values; empty ones are left out."""
    kept = [(label, value) for label, value in rows if value not in ("", None)]
    return tag("dl", [joined((tag("dt", label), tag("dd", value))) for label, value in kept], class_="facts")


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Child]], *, text: int = 1) -> Markup:
    """A table that scrolls where it is too wide; the first ``text`` columns are text, the others numbers."""
    heads = tag(
        "tr", [tag("th", name, scope="col", class_="text" if i < text else None) for i, name in enumerate(header)]
    )
    body = [tag("tr", [_cell(cell, index, text) for index, cell in enumerate(row)]) for row in rows]
    return wide(caption, tag("table", tag("caption", caption), tag("thead", heads), tag("tbody", body)))


def _cell(cell: Child, index: int, text: int) -> Markup:
    if index == 0:
        return tag("th", cell, scope="row")
    return tag("td", cell, class_="text" if index < text else None)


def wide(label: str, inside: Markup) -> Markup:
    """What may be wider than the screen, so that it can be scrolled by keyboard too."""
    return tag("div", inside, class_="wide", role="region", aria_label=label, tabindex=0)


def prose(text: str) -> Markup:
    """A sentence; what stands between backticks is code."""
    plain, *rest = text.split("`")
    if len(rest) % 2:
        return joined([text])
    told: list[Child] = [plain]
    for code, after in zip(rest[::2], rest[1::2], strict=True):
        told += [tag("code", code), after]
    return joined(told)


def badge(text: str, kind: str) -> Markup:
    """An outcome, in words; ``kind`` is good, error, warning or note."""
    return tag("span", text, class_=f"badge {kind}")


def folded(summary: Child, *inside: Child, is_open: bool = False) -> Markup:
    """What is read on demand."""
    return tag("details", tag("summary", summary), inside, open_="open" if is_open else None)
