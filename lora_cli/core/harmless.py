"""Text of others made harmless for whoever reads it: a terminal, and the runner of a CI server."""

import re

_LINE_BEGINS = "(^|[\r\v\f\x1c\x1d\x1e\x85\u2028\u2029])"


def safe(text: object) -> str:
    r"""``text`` on one line, with control, bidirectional and other invisible characters written as escapes.

    What an adapter calls its tensors must not move the cursor of whoever reads about it.
    """
    string = str(text)
    if string.isprintable():
        return string
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in string)


def unheard(text: str) -> str:
    """``text`` for a console that a CI server listens to: no line of it is a command to that.

    GitHub Actions takes one from a line that begins with ``::``, Azure Pipelines, TeamCity and GitHub too from ``##[``,
    ``##vso[`` and ``##teamcity[`` wherever they stand; what an adapter is called must not set a variable there. A line
    begins behind whatever some reader takes for the end of one.
    """
    if "::" not in text and "##" not in text:
        return text
    quiet = re.sub(rf"{_LINE_BEGINS}(\s*):(?=:)", r"\1\2\\x3a", text, flags=re.MULTILINE)
    return re.sub(r"##(?=\w*\[)", r"#\\x23", quiet)


def harmless(text: str) -> str:
    r"""``text`` of one line or more, which only ``\n`` ends, as both of them may have it."""
    return "\n".join(unheard(safe(line)) for line in text.split("\n"))
