"""What ``validate`` writes, and where: each format that was asked for, to its file or to standard output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

from lora_cli.cli.output import drawn, to_stderr, writable, write
from lora_cli.core.nearest import did_you_mean
from lora_cli.core.text import safe
from lora_cli.errors import MachineError, UsageError
from lora_cli.validation.report import Report

HUMAN, CONCISE, GITHUB, MARKDOWN = "human", "concise", "github", "markdown"
RENDERERS = {
    "json": "lora_cli.render.json:encoded",
    "sarif": "lora_cli.render.sarif:render_report",
    "junit": "lora_cli.render.junit:render_report",
    GITHUB: "lora_cli.render.github:render_report",
    MARKDOWN: "lora_cli.render.markdown:render_report",
    "gitlab": "lora_cli.render.gitlab:render_report",
}
"""What writes each machine format: its module is imported when it is asked for, and not before."""

FORMATS = (HUMAN, CONCISE, *RENDERERS)

STDOUT = Path("-")
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True, slots=True)
class Output:
    """One format and where it goes; ``appended`` to what is there already, or instead of it."""

    format: str
    file: Path = STDOUT
    appended: bool = False


def outputs(formats: Sequence[str], file: Path | None, environ: Mapping[str, str]) -> tuple[Output, ...]:
    """What ``--format FORMAT[=FILE]`` and ``-o FILE`` ask for together.

    Markdown that has no file of its own is appended to the job's summary, where GitHub Actions names one.

    Raises:
        UsageError: no such format; two for one place; ``-o`` that could mean several.
        MachineError: a file that cannot be written.
    """
    asked = [_named(word) for word in formats or [HUMAN]]
    bare = [name for name, given in asked if given is None]
    if file is not None and len(bare) != 1:
        hint = "give each its own: --format sarif=FILE" if bare else "leave -o out"
        raise UsageError("-o is for the one format that has no file", hint=hint)
    summary = environ.get(STEP_SUMMARY, "")
    found = tuple(
        Output(name, Path(summary), appended=True)
        if name == MARKDOWN and summary and (given or file) is None
        else Output(name, given or file or STDOUT)
        for name, given in asked
    )
    for output in found:
        same = [other.format for other in found if other.file == output.file]
        if len(same) > 1:
            hint = f"give each a file of its own: --format {same[-1]}=FILE"
            if output.file == STDOUT and MARKDOWN in same:
                hint += f"; only where {STEP_SUMMARY} is set does markdown go there by itself"
            raise UsageError(f"{' and '.join(same)} would be mixed", hint=hint)
        writable(output.file)
    return found


def _named(word: str) -> tuple[str, Path | None]:
    name, has_file, file = word.partition("=")
    if name not in FORMATS:
        raise UsageError(f"{safe(name)} is no format", hint=did_you_mean(name, FORMATS))
    if has_file and not file:
        raise UsageError(f"--format {word} names no file", hint=f"--format {name}=FILE, or --format {name}")
    return name, Path(file) if file else None


def tell(report: Report, asked: Sequence[Output], *, quiet: bool = False, statistics: bool = False) -> None:
    """Writes each format. What is to be said of the run itself goes to stderr.

    ``quiet`` leaves out what is not wrong of what people read, and ``statistics`` all but how often each rule found
    something.

    Raises:
        MachineError: a file cannot be written.
    """
    annotated = any(output.format == GITHUB and output.file == STDOUT for output in asked)
    for notice in () if quiet or annotated else report.notices:
        to_stderr(safe(f"warning: {notice}"))
    for output in asked:
        if output.format == HUMAN:
            from lora_cli.render.terminal_validate import report_parts, statistics_parts

            parts = statistics_parts(report) if statistics else report_parts(report, quiet=quiet)
            write(drawn(parts, None if output.file == STDOUT else output.file), output.file)
        elif output.format == CONCISE:
            from lora_cli.render import concise

            write(concise.render_report(report, quiet=quiet), output.file)
        elif output.appended:
            said = _append(report, output.file)
            if not quiet:
                to_stderr(said)
        else:
            text = resolve_name(RENDERERS[output.format])(report)
            write(text, output.file, commands=output.format == GITHUB)


def _append(report: Report, file: Path) -> str:
    from lora_cli.render.markdown import STEP_LIMIT, render_report

    try:
        there = file.stat().st_size if file.exists() else 0
        text = render_report(report, STEP_LIMIT - there)
        with file.open("a", encoding="utf-8") as stream_:
            stream_.write(text)
    except OSError as error:
        raise MachineError(f"{file} cannot be written: {error.strerror}", hint=f"look at {STEP_SUMMARY}") from error
    return f"the summary is in {STEP_SUMMARY}" if text else f"{STEP_SUMMARY} is full: no summary was written"
