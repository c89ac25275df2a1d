"""The console script, and the one place where errors become messages and exit codes."""

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from errno import EACCES, EDQUOT, EFBIG, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, EPERM, EROFS
from pathlib import Path

import typer

from lora_cli.cli import app
from lora_cli.cli.options import origin_of
from lora_cli.cli.output import to_stderr
from lora_cli.did_you_mean import nearest
from lora_cli.errors import INTERRUPTED, DocumentError, LoraCliError, MachineError, UsageError
from lora_cli.text import safe

# Errors of the operating system that are caused by the machine, not by a bug.
MACHINE_ERRNOS = {ENOSPC, EDQUOT, EROFS, EACCES, EPERM, EMFILE, ENFILE, ENOMEM, EIO, EFBIG}

SIGPIPE_EXIT_CODE = 141
"""The exit code that a shell reports for a program that writes into a closed pipe: 128 + SIGPIPE."""

SIGTERM_EXIT_CODE = 143
"""The exit code that a shell reports for a program that was stopped by a signal: 128 + SIGTERM."""

OBJECTS_PER_COLLECTION = 1_000_000
"""Allocations between two runs of the cyclic garbage collector. Little of a parsed header or document is garbage,
and with the default of 700 the collector would scan all of it again and again."""


def main(argv: Sequence[str]) -> int:
    """Runs one command line and returns its exit code. Never raises: an unexpected error is 70, with its traceback."""
    try:
        return _run(argv)
    except typer.TyperException as error:
        return _report(_usage_error(error, argv))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return SIGPIPE_EXIT_CODE
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        return SIGPIPE_EXIT_CODE if isinstance(stop.__context__, BrokenPipeError) else code
    except Exception as error:  # noqa: BLE001 - the one boundary
        expected = _expected(error)
        return _bug() if expected is None else _report(expected)


def _run(argv: Sequence[str]) -> int:
    app.remove_service_variables()
    code = app.build_app().main(args=list(argv), prog_name="lora-cli", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _usage_error(error: typer.TyperException, argv: Sequence[str]) -> UsageError:
    """The ``UsageError`` for typer's error, with a suggestion or the command's help as the hint."""
    message, context = _typer_message(error), getattr(error, "ctx", None)
    text, _, likely = message.partition(" Did you mean ")
    text = text.partition(" (Possible options")[0].rstrip(".")
    text = (text[:1].lower() + text[1:]).replace("is not a valid int range", "is not a whole number")
    if (variable := _variable_of(error)) is not None:
        text = f"{variable}: {text.partition(': ')[2]}"
    if context is not None and (wrong := text.removeprefix("no such option: ")) != text:
        known = {flag for one in context.command.params for flag in (*one.opts, *one.secondary_opts)}
        likely = nearest(wrong, known) or ""
    named = [word for word in argv if word in app.COMMANDS][:1]
    command = context.command_path if context else " ".join(["lora-cli", *named])
    return UsageError(text, hint=f"did you mean {likely.rstrip('?')}?" if likely else f"{command} --help")


def _typer_message(error: typer.TyperException) -> str:
    """Typer's message. Since 0.29 pydantic parses values: its messages lack the value and half of a range."""
    message, mistakes = error.format_message(), getattr(error.__cause__, "errors", None)
    if mistakes is None:
        return message
    option, mistake, parameter = message.partition(": ")[0], mistakes()[0], getattr(error, "param", None)
    given, kind, text = mistake["input"], mistake["type"], mistake["msg"].removeprefix("Value error, ")
    if kind.startswith(("int_", "float_")):
        text = f"{given!r} is not a {'whole ' if kind.startswith('int') else ''}number"
    elif kind.startswith(("greater_", "less_")):
        least, most = getattr(parameter, "min", None), getattr(parameter, "max", None)
        limits = f"{least}<=x<={most}" if most is not None else f"x>={least}"
        text = f"{given} is not in the range {limits}"
    return f"{option}: {text}"


def _variable_of(error: typer.TyperException) -> str | None:
    """The environment variable with the invalid value; None if it is on the command line."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if context is None or parameter is None:
        return None
    return str(parameter.envvar) if origin_of(context, parameter.name) == "ENVIRONMENT" else None


def _discard_output() -> None:
    """Sends the remaining output to /dev/null: its reader is gone, and flushing it at exit would fail."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())


def _expected(error: Exception) -> LoraCliError | None:
    """``error`` as an error about the command line, the adapter or the machine; None for a bug."""
    if isinstance(error, LoraCliError):
        return error
    if isinstance(error, MemoryError):
        return MachineError("out of memory", hint="lower jobs (LORA_CLI_JOBS), or use fewer adapters at once")
    if isinstance(error, OSError) and error.errno in MACHINE_ERRNOS:
        hint = "check disk space, permissions and limits (df, ls -l, ulimit -a)"
        return MachineError(f"{error.filename or 'writing the output'}: {error.strerror}", hint=hint)
    return None


def _bug() -> int:
    import traceback

    from lora_cli.redaction import redacted

    with suppress(OSError):
        # Users post this in bug reports.
        to_stderr(redacted(traceback.format_exc(), os.environ).rstrip("\n"))
        to_stderr("This is a bug in lora-cli. Please report it with the lines above.")
    return LoraCliError.exit_code


def _report(error: LoraCliError) -> int:
    with suppress(OSError):  # stderr is full or closed: the exit code still reports the error
        for one in error.mistakes if isinstance(error, DocumentError) else (error,):
            to_stderr(safe(f"error: {one.message}"))
            if one.hint:
                to_stderr(safe(f"hint: {one.hint}"))
    return error.exit_code


def run() -> None:
    """The console script. Output to a stream that was closed before the start is discarded."""
    if sys.stdout is None or sys.stderr is None:
        nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - for the life of the process
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    gc.set_threshold(OBJECTS_PER_COLLECTION)
    if os.getpid() == 1:
        _exit_on_sigterm()
    code = main(sys.argv[1:])
    if "torch" not in sys.modules:  # whose libraries report what is left
        gc.freeze()  # else Python looks for garbage among all modules before it exits: a fifth of a short run
    try:
        sys.stderr.flush()
    except OSError:  # full or closed: at exit Python would flush it again, and exit with 120
        _discard_output()
    sys.exit(code)


def _exit_on_sigterm() -> None:
    """Exits on SIGTERM as PID 1 of a container too, where the kernel ignores it by default."""
    import signal

    signal.signal(signal.SIGTERM, lambda *_: os._exit(SIGTERM_EXIT_CODE))
