"""An engine's command line with the flags that serve some adapters, as words for a shell."""

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lora_cli.engines.profile import Flags
from lora_cli.engines.slot_sizing import Fit

MODEL = "$MODEL"
"""The placeholder for the base in a command if its name is not known."""


@dataclass(frozen=True, slots=True)
class Located:
    """An adapter that is loaded at start-up."""

    name: str
    path: str
    pinned: bool = False
    """Whether it never leaves its slot."""


def options_of(flags: Flags, fit: Fit, tp: int, adapters: Sequence[Located]) -> tuple[tuple[str, ...], ...]:
    """Each option with its values, in the order for the command line."""
    options: list[tuple[str, ...]] = [
        (flags.enable,),
        (flags.rank, str(fit.max_lora_rank)),
        (flags.slots, str(fit.max_loras)),
        (flags.memory, str(fit.max_cpu_loras)),
    ]
    if fit.lora_target_modules is not None:
        options.append((flags.targets, *fit.lora_target_modules))
    if flags.strict:
        options.append((flags.strict,))
    if tp > 1:
        options.append((flags.tp, str(tp)))
    if adapters:
        options.append((flags.adapters, *(_located(flags, one) for one in adapters)))
    return tuple(options)


def _located(flags: Flags, one: Located) -> str:
    """``NAME=PATH``, or JSON if the path has a comma or the adapter is pinned."""
    if "," not in one.path and not one.pinned:
        return f"{one.name}={one.path}"
    name, path = flags.keys
    return json.dumps({name: one.name, path: one.path, **({"pinned": True} if one.pinned else {})})


def launch_words(flags: Flags, model: str, revision: str) -> tuple[str, ...]:
    """The command before the options of LoRA; ``model`` is empty if the base's name is unknown."""
    words = [model or MODEL if word == "{base}" else word for word in flags.launch.split()]
    return (*words, flags.revision, revision) if revision else tuple(words)


def command_lines(flags: Flags, launch: Sequence[str], options: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of the command, with one option on each; together they are one command for a shell."""
    lines = [for_shell(launch)]
    for flag, *values in options:
        if flag == flags.adapters:
            lines += [f"  {flag}", *(f"    {for_shell([value])}" for value in values)]
        else:
            lines.append(f"  {for_shell([flag, *values])}")
    yield from (f"{line} \\" for line in lines[:-1])
    yield lines[-1]


def for_shell(words: Sequence[str]) -> str:
    """``words`` quoted for a shell, with the placeholder for the base as a variable."""
    return " ".join(f'"{MODEL}"' if word == MODEL else shlex.quote(word) for word in words)
