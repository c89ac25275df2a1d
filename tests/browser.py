"""Pages in a real browser (Debian's chromium): what they load, how they fit, whether they can be read and reached."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.processes import needed

ALONE = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
PHONE, DESK = (320, 640), (1280, 900)

CONTRASTS = """
() => {
  const light = part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * light(r / 255) + 0.7152 * light(g / 255) + 0.0722 * light(b / 255);
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const behind = node => {
    for (let one = node; one; one = one.parentElement) {
      const found = rgb(getComputedStyle(one).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const worst = [];
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), node = walker.currentNode.parentElement;
    if (!text || !node.getClientRects().length || node.closest("svg")) continue;
    const style = getComputedStyle(node);
    const [a, b] = [luminance(rgb(style.color)), luminance(behind(node))];
    worst.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), text.slice(0, 40)]);
  }
  return worst.sort((one, other) => one[0] - other[0]).slice(0, 3);
}
"""
"""The contrast of each text with what is behind it, by WCAG 2.2: the three lowest."""

FOCUSED = "() => { const one = document.activeElement; return [one.tagName, one.getAttribute('aria-label') || ''] }"


class Page:
    """One HTML file, open: ``asked`` are the addresses that it asked for, ``told`` is what its console says."""

    def __init__(self, page: Any, file: Path) -> None:
        self.page, self.asked, self.told = page, list[str](), list[str]()
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.told.append(message.text))
        page.on("pageerror", lambda error: self.told.append(str(error)))
        page.goto(file.as_uri())
        self.asked.remove(file.as_uri())

    def contrasts(self) -> list[tuple[float, str]]:
        return [(float(ratio), str(text)) for ratio, text in self.page.evaluate(CONTRASTS)]

    def overflow(self) -> int:
        """Pixels that the page is wider than the screen."""
        return int(self.page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth"))

    def focused_by_tab(self, most: int = 200) -> list[tuple[str, str]]:
        """What the tab key reaches, in order, until it is back at the page."""
        found = []
        for _ in range(most):
            self.page.keyboard.press("Tab")
            name, label = self.page.evaluate(FOCUSED)
            if name == "BODY":
                break
            found.append((str(name), str(label)))
        return found


@contextlib.contextmanager
def browsing() -> Iterator[Any]:
    """Debian's chromium."""
    chromium = needed("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ALONE)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser: Any, file: Path, size: tuple[int, int] = DESK, *, dark: bool = False) -> Iterator[Page]:
    """The file in a window of ``size``."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light"
    )
    try:
        yield Page(context.new_page(), file)
    finally:
        context.close()
