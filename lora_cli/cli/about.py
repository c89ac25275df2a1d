"""``lora-cli --version -v``: what this machine has for lora-cli, without a secret and without a request."""

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from lora_cli.settings import API_KEY, load_settings

TOKENS = {
    "Hub": ("HF_TOKEN", "HF_TOKEN_PATH", "~/.cache/huggingface/token"),
    "AWS": ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "~/.aws/credentials", "~/.aws/config"),
    "Google": ("GOOGLE_APPLICATION_CREDENTIALS", "~/.config/gcloud/application_default_credentials.json"),
    "Azure": ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_ID", "~/.azure"),
    "registries": ("DOCKER_CONFIG", "~/.docker/config.json"),
    "engines": (API_KEY,),
}
"""Variables and files with the credentials of each kind of server."""

PACKAGES = ("torch", "transformers", "peft", "vllm", "sglang", "model-signing", "ray")


def _exists(path: str) -> bool:
    """Whether there is such a file, as far as this user can see; a machine may know of no home at all."""
    return os.path.exists(os.path.expanduser(path))  # noqa: PTH110, PTH111 - these never raise


def about(environ: Mapping[str, str]) -> Iterator[str]:
    """A line for Python, cache, settings file, the credentials that were found, and each package that extends us.

    Raises:
        UsageError: the settings are wrong.
    """
    settings = load_settings({}, environ)
    yield f"Python       {platform.python_version()} on {platform.platform()} ({sys.executable})"
    yield f"cache        {settings.cache_dir}"
    yield f"settings     {settings.config or 'no file'}"
    for server, places in {**TOKENS, "sources": tuple(rule.token_env or "" for rule in settings.sources)}.items():
        found = [one for one in places if (_exists(one) if one[:1] == "~" else environ.get(one))]
        yield f"{server:<12} {'credentials in ' + ', '.join(found) if found else 'no credentials found'}"
    for package in PACKAGES:
        try:
            yield f"{package:<12} {version(package)}"
        except PackageNotFoundError:
            yield f"{package:<12} not installed"
