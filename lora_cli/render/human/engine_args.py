"""What ``inspect --engine-args`` says to people: a command line to be copied, and what each of its numbers costs."""

from lora_cli.render.engine_flags import command, costs, title
from lora_cli.render.text import paint, pairs, wrap
from lora_cli.validation.engine_args import EngineArgs


def render_engine_args(args: EngineArgs, width: int, *, colour: bool = False) -> str:
    """The command, an option on each line as a shell takes it, and below it what it is for and what it costs."""
    lines = [paint(line, "bold", colour=colour) for line in wrap(title(args), width)]
    if args.fit is not None:
        lines += ["", *(f"  {line}" for line in command(args))]
    return "\n".join([*lines, "", *pairs(costs(args), width)]) + "\n"
