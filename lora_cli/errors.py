"""One exception tree: what happened, what to try, and the exit code that scripts branch on."""

from collections.abc import Mapping, Sequence
from logging import Logger
from typing import Any, ClassVar, Self

from lora_cli.redaction import log_bug, redact

INTERRUPTED = 130
"""What a shell says of a program that was stopped with Ctrl-C: 128 + SIGINT."""

LONGEST = 16_384
"""How many characters a message has at most."""


class LoraCliError(Exception):
    """Anything that ends a command with a message instead of a traceback.

    ``message`` says what happened, and to which adapter and file; ``hint`` says what to try next.
    Neither ever holds a secret: people type one where a user or a revision belongs, and a server says back what it got.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message, self.hint = redact(message[:LONGEST]), redact(hint[:LONGEST])
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        """On its way from another process: as it is, whatever its class wants to be made of."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[LoraCliError], args: tuple[Any, ...], state: dict[str, Any]) -> LoraCliError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class FormatError(LoraCliError):
    """Bytes inside an adapter that are not what their format says; ``where`` is the file, key or offset."""

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message, hint=hint)
        self.reason = redact(message[:LONGEST])
        self.where = where

    def within(self, file: str) -> Self:
        """The same error, which says in which file it is, unless it already does."""
        if not self.where:
            self.where, self.message = file, f"{file}: {self.reason}"
            self.args = (self.message,)
        return self


class NoAdapter(FormatError):
    """A folder without an adapter's config and weights: its ``folders`` may have some, and be training runs."""

    def __init__(self, message: str, folders: Mapping[str, bool], *, where: str, hint: str) -> None:
        super().__init__(message, where=where, hint=hint)
        self.folders = folders


class TooLarge(FormatError):
    """There is more of it than is read of such a thing: what it holds is not known, and others may load it."""


class UnsafePickle(FormatError):
    """A pickle that does something else than to describe data: ``global_name`` is what it looks up ("os.system")."""

    def __init__(self, message: str, global_name: str) -> None:
        super().__init__(message)
        self.global_name = global_name


def bug_of(log: Logger, error: Exception) -> LoraCliError:
    """The error of one adapter for an unexpected one, whose place is logged."""
    log_bug(log, error)
    return LoraCliError(f"{type(error).__name__}: {error}", hint="this is a bug in lora-cli; please report it")


class Refused(LoraCliError):
    """Checked and refused: a policy, a limit, drift under ``--locked``, a proof that fails."""

    exit_code = 1


class UsageError(LoraCliError):
    """The command line, a manifest, a policy or a settings file is wrong."""

    exit_code = 2


class DocumentError(UsageError):
    """An error in a file that a person wrote: ``mistakes`` has an error for each, at least one.

    The message is that of the first one, and says how many follow.
    """

    def __init__(self, mistakes: Sequence[UsageError]) -> None:
        first, more = mistakes[0], len(mistakes) - 1
        super().__init__(f"{first.message} (and {more} more)" if more else first.message, hint=first.hint)
        self.mistakes = tuple(mistakes)


class MissingExtra(UsageError):
    """A command needs a package of an extra that is not installed."""

    def __init__(self, command: str, extra: str, package: str) -> None:
        super().__init__(
            f"{command} needs the package {package}, which is not installed",
            hint=f"pip install 'lora-cli[{extra}]{_origin()}'",
        )


def _origin() -> str:
    """Where this program was installed from, as pip writes it (PEP 610): a folder or a repository; "" for an index."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        told = json.loads(distribution("lora-cli").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return ""
    kind = told.get("vcs_info", {}).get("vcs", "")
    return f" @ {f'{kind}+' if kind else ''}{told['url']}" if "url" in told else ""


class NotFound(LoraCliError):
    """There is no such path, repository, revision or file."""

    exit_code = 3


class AccessDenied(LoraCliError):
    """The origin knows who asks and says no: private, gated, or a bad token."""

    exit_code = 3


class Offline(LoraCliError):
    """The network is switched off, and what is needed is not in the cache."""

    exit_code = 3


class Unreachable(LoraCliError):
    """Network, rate limit, timeout or server error, after all retries. Worth another try later."""

    exit_code = 4


class Corrupt(LoraCliError):
    """Bytes that are not what was promised: a digest or size differs after the retries, or a blob rotted."""

    exit_code = 5


class Changed(Corrupt):
    """What was listed is another version by now: the next request gets that one."""


class MachineError(LoraCliError):
    """This machine: disk full, read-only, no permission, out of memory or slots, a lock that never came."""

    exit_code = 6


class EndpointError(LoraCliError):
    """A running engine refused, or did not become ready."""

    exit_code = 7


ERRORS: dict[int, type[LoraCliError]] = {
    1: Refused,
    2: UsageError,
    3: NotFound,
    4: Unreachable,
    5: Corrupt,
    6: MachineError,
    7: EndpointError,
}
"""What a failure that comes from another process is raised as, by its exit code."""
