"""Which class reads which scheme. A source is listed here, in one line, and nowhere else."""

from collections.abc import Mapping
from importlib import import_module

from lora_cli.core.reference import Scheme
from lora_cli.errors import UsageError
from lora_cli.settings import Settings
from lora_cli.sources import Source

SOURCES: Mapping[Scheme, str] = {
    "file": "lora_cli.sources.local:LocalSource",
    "hf": "lora_cli.sources.hub:HubSource",
    "s3": "lora_cli.sources.s3:S3Source",
}
"""Scheme → ``module:Class``. The class takes the settings; its module is imported only when it is needed."""


def open_source(scheme: Scheme, settings: Settings) -> Source:
    """The source of ``scheme``. Opens no connection.

    Raises:
        UsageError: no source reads this scheme (yet).
    """
    if scheme == "oci":
        hint = (
            "pull it first (oras pull REGISTRY/NAME:TAG -o DIRECTORY) and name the folder, or keep it on hf://, s3://"
        )
        raise UsageError("adapters in an OCI registry (oci://) are not supported yet", hint=hint)
    if scheme not in SOURCES:
        known = ", ".join(f"{name}://" for name in SOURCES)
        raise UsageError(f"this version of lora-cli does not read {scheme}://", hint=f"it reads {known}")
    module, _, name = SOURCES[scheme].partition(":")
    source: Source = getattr(import_module(module), name)(settings)
    return source
