"""The operator's settings, from four layers: defaults < file < environment < flag."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_cli.documents import option_values
from lora_cli.documents.option_values import DURATION, HUB, SIZE, SWITCH, Kind, advised, parse_whole
from lora_cli.errors import UsageError

if TYPE_CHECKING:
    from lora_cli.documents.policy import Policy
    from lora_cli.documents.source_rules import SourceRule

CONFIG, API_KEY = "LORA_CLI_CONFIG", "LORA_CLI_API_KEY"
RESOLVE, RESOLVE_TIMEOUT = "LORA_CLI_RESOLVE", "LORA_CLI_RESOLVE_TIMEOUT"
"""Variables without an option: the settings file, the bearer token of a server, and of the plugins in engines."""

HUB_ENDPOINT = "https://huggingface.co"

LARGEST_RESERVE = 1 << 30
RESERVED_PART = 20
"""Without ``keep_free``, 1/20 of the disk stays free, at most 1 GiB: nodes with a full disk evict their pods."""


def bytes_kept_free(keep_free: int | None, disk_bytes: int) -> int:
    """How much of a disk of ``disk_bytes`` stays free: ``keep_free``, or without it a part."""
    return min(LARGEST_RESERVE, disk_bytes // RESERVED_PART) if keep_free is None else keep_free


@dataclass(frozen=True, slots=True)
class Settings:
    """The global options, parsed and checked; made by ``load_settings``.

    ``cache_dir`` is absolute. ``jobs`` is how many transfers or adapters are in flight at once. ``timeout_s`` is how
    long one network operation may be silent, ``retries`` how often it is tried again, ``lease_s`` how long a process
    waits for another one that downloads the same thing. ``hub_endpoint`` has no trailing slash and no user in it.
    ``max_bytes`` limits one adapter (None: no limit). ``keep_free`` bytes of the cache's disk stay free (None: a part
    of it), and the cache has at most ``cache_budget`` (None: what the disk has). One adapter takes at most
    ``adapter_timeout_s``.
    ``allow_private_redirects`` follows a server that sends us into a private network. ``config`` is the file that was
    read, if any. ``sources`` are the file's rules for how sources are reached (names of secrets, never values; no
    option has them). ``policies`` are a manifest's and a policy file's: all of them hold. Tokens are never settings:
    each source asks its own chain when it needs one.
    """

    cache_dir: Path
    jobs: int = 32
    timeout_s: float = 30.0
    retries: int = 5
    lease_s: float = 600.0
    offline: bool = False
    quiet: bool = False
    verbose: bool = False
    hub_endpoint: str = HUB_ENDPOINT
    max_bytes: int | None = None
    allow_private_redirects: bool = False
    keep_free: int | None = None
    cache_budget: int | None = None
    adapter_timeout_s: float = 1800.0
    config: Path | None = None
    sources: "tuple[SourceRule, ...]" = ()
    policies: "tuple[Policy, ...]" = ()

    @property
    def require_pinned(self) -> bool:
        """Whether a policy demands pinned versions."""
        return any(policy.require_pinned for policy in self.policies)


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting's one declaration: variable, key of the settings file and line of docs/manifest.md come of it.

    ``field`` is where ``Settings`` has it, ``default`` what a file would have to say for what is so without it.
    """

    field: str
    kind: Kind
    help: str
    default: Any = None

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of its key in a settings file."""
        default = {} if self.default is None else {"default": self.default}
        return {**self.kind.schema, "description": self.help, **default}


def _whole(lowest: int, highest: int) -> Kind:
    schema = {"type": "integer", "minimum": lowest, "maximum": highest}
    return Kind(partial(parse_whole, lowest, highest), schema)


SETTINGS: Mapping[str, Setting] = {
    "cache_dir": Setting(
        "cache_dir",
        option_values.DIRECTORY,
        "Cache directory (default: $XDG_CACHE_HOME/lora-cli or ~/.cache/lora-cli).",
    ),
    "jobs": Setting("jobs", _whole(1, 256), "Maximum number of concurrent downloads or adapters.", 32),
    "timeout": Setting("timeout_s", DURATION, "Network idle timeout.", "30s"),
    "retries": Setting("retries", _whole(0, 100), "Maximum number of retries of a download without progress.", 5),
    "lease": Setting("lease_s", DURATION, "How long to wait for another process that downloads the same files.", "10m"),
    "offline": Setting("offline", SWITCH, "Make no network requests; use only the cache.", False),
    "quiet": Setting("quiet", SWITCH, "Print only errors on stderr.", False),
    "verbose": Setting("verbose", SWITCH, "Verbose output on stderr.", False),
    "allow_private_redirects": Setting(
        "allow_private_redirects",
        SWITCH,
        "Follow redirects to private network addresses, but never to link-local ones.",
        False,
    ),
    "hub_endpoint": Setting("hub_endpoint", HUB, "The address of the Hub; HF_ENDPOINT sets it too.", HUB_ENDPOINT),
    "max_bytes": Setting("max_bytes", SIZE, "Maximum size of one adapter."),
    "keep_free": Setting(
        "keep_free", SIZE, "Minimum free space on the disk of the cache (default: 5 % of it, at most 1GiB)."
    ),
    "cache_budget": Setting(
        "cache_budget",
        SIZE,
        "Maximum cache size: before a download the least recently used snapshots are removed.",
    ),
    "adapter_timeout": Setting(
        "adapter_timeout_s", DURATION, "Maximum time for reading or fetching one adapter.", "30m"
    ),
}
"""By name: the key in the file, and in capitals the variable behind ``LORA_CLI_``."""


def load_settings(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """The settings that four layers make: defaults < file < environment < flag.

    ``flags`` holds option names with underscores (``cache_dir``, ``offline``, …), None for "not given"; names that are
    not global options are ignored. The file is ``LORA_CLI_CONFIG``, which then must be there, else
    ``$XDG_CONFIG_HOME/lora-cli/config.toml``. ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` (or ``TRANSFORMERS_OFFLINE``)
    count as environment, below our own names. An empty variable is as good as none.

    Raises:
        UsageError: a value or key that is wrong, with the layer, file and line that it is in.
        MachineError: the file cannot be read.
    """
    named = environ.get(CONFIG)
    file = _expand(Path(named), environ) if named else _xdg(environ, "XDG_CONFIG_HOME", ".config") / "config.toml"
    fields: dict[str, Any] = {"cache_dir": _xdg(environ, "XDG_CACHE_HOME", ".cache")}
    is_there = os.path.exists(file) if named else os.path.isfile(file)  # noqa: PTH110, PTH113 - these never raise
    if named and not is_there:
        raise UsageError(f"there is no settings file {file}", hint=f"check {CONFIG}")
    from_file = _file_layer(file, environ) if is_there else {}
    variables: dict[str, Any] = {}
    if environ.get("HF_ENDPOINT"):
        variables |= _layer({"hub_endpoint": environ["HF_ENDPOINT"]}, lambda _: "HF_ENDPOINT")
    if offline := environ.get("HF_HUB_OFFLINE") or environ.get("TRANSFORMERS_OFFLINE"):
        # huggingface_hub reads both, and takes any other word as "no", and so do we: the variables are theirs.
        variables["offline"] = offline.strip().lower() in option_values.TRUE
    ours = {key: environ[name] for key in SETTINGS if environ.get(name := f"LORA_CLI_{key.upper()}")}
    variables |= _layer(ours, lambda key: f"LORA_CLI_{key.upper()}")
    given = {key: value for key, value in flags.items() if key in SETTINGS and value is not None}
    for layer in (from_file, variables, _layer(given, lambda key: "--" + key.replace("_", "-"))):
        if layer.get("quiet") and layer.get("verbose"):
            raise UsageError("quiet and verbose cannot be used together", hint="set one of them")
        if layer.get("quiet") or layer.get("verbose"):
            fields.update(quiet=False, verbose=False)
        fields.update(layer)
    fields["cache_dir"] = _expand(fields["cache_dir"], environ)
    return Settings(**fields, config=file if is_there else None)


def _layer(values: Mapping[str, Any], where: Callable[[str], str]) -> dict[str, Any]:
    layer = {}
    for key, value in values.items():
        setting = SETTINGS[key]
        try:
            layer[setting.field] = setting.kind.parse(value)
        except ValueError as error:
            message, advice = advised(error)
            raise UsageError(f"{where(key)}: {message}", hint=advice) from error
    return layer


def _file_layer(file: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """The file's layer. Paths in it are relative to it."""
    from lora_cli.documents.source_rules import read_settings

    read = read_settings(file, {key: (setting.kind, setting.help) for key, setting in SETTINGS.items()})
    layer = {SETTINGS[key].field if key in SETTINGS else key: value for key, value in read.items()}
    if "cache_dir" in layer:
        layer["cache_dir"] = file.parent / _expand(layer["cache_dir"], environ, absolute=False)
    return layer


def _xdg(environ: Mapping[str, str], variable: str, default: str) -> Path:
    """Our folder under an XDG base directory; a relative one is ignored, as that specification demands."""
    named = environ.get(variable, "")
    base = Path(named) if named.startswith("/") else home_of(environ) / default
    return base / "lora-cli"


def home_of(environ: Mapping[str, str]) -> Path:
    """This user's home; ``/``, as in container runtimes, for a user id without an account."""
    if environ.get("HOME"):
        return Path(environ["HOME"])
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def _expand(path: Path, environ: Mapping[str, str], *, absolute: bool = True) -> Path:
    if path.parts and path.parts[0] == "~":
        path = home_of(environ).joinpath(*path.parts[1:])
    return Path(os.path.abspath(path)) if absolute else path  # noqa: PTH100 - links stay links
