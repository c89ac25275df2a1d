"""Bash takes ``vllm@0.33``, ``hf://org/name`` and ``--engine=vllm`` for several words, and replaces the last one only.

``COMP_WORDBREAKS`` is the user's; so words are put together here before they are completed, and taken apart after it.
"""

import os
import re

from typer._click.shell_completion import CompletionItem, split_arg_string
from typer._completion_classes import BashComplete

BREAKS = frozenset("@:=")
"""Characters of bash's ``COMP_WORDBREAKS`` that stand within our words."""


class WholeWords(BashComplete):
    """Typer's completion for bash, of words as a user means them."""

    begun = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is begun, without the program's name, and that one."""
        words = split_arg_string(os.environ["COMP_WORDS"])
        cursor = int(os.environ["COMP_CWORD"])
        whole: list[str] = []
        within = False
        for word in words[1 : cursor + 1]:
            breaks = BREAKS.issuperset(word)
            if whole and (breaks or within):
                whole[-1] += word
            else:
                whole.append(word)
            within = breaks
        self.begun = whole.pop() if cursor < len(words) or within else ""
        return whole, self.begun

    def format_completion(self, item: CompletionItem) -> str:
        """What stands for the last of bash's words: what follows ``:``, or ``@`` with what follows it."""
        value = super().format_completion(item)
        begun = self.begun.partition("=")[2] if self.begun.startswith("-") else self.begun
        kept = re.match(r"(.*:|.*(?=@))", begun)
        return value.removeprefix(kept[0]) if kept else value
