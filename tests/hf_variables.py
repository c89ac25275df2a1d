"""The variables of huggingface_hub, which reads most of them once."""

import importlib
import sys

import pytest


def set_variables(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Set ``HF_…`` variables, and let huggingface_hub read them."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if (constants := sys.modules.get("huggingface_hub.constants")) is not None:
        importlib.reload(constants)
