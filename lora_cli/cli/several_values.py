"""``--lora-modules a b c``: options with several values after one flag, as ``vllm bench serve`` has them."""

from collections.abc import Sequence

OPTIONS = {"serve-bench": ("--lora-modules", "--goodput")}
"""The options of each command that are said so; typer knows only one value after a flag."""


def one_by_one(words: Sequence[str]) -> list[str]:
    """``words`` with the flag before each of its values; up to the next option, or ``--``."""
    flags = OPTIONS.get(words[0], ()) if words else ()
    found: list[str] = []
    flag = ""
    for word in words:
        if flag and not word.startswith("-") and found[-1] != flag:
            found.append(flag)
        elif word.startswith("-"):
            flag = word if word in flags else ""
        found.append(word)
    return found
