"""Which of a test's parameters are only for ``make test-long``."""

from collections.abc import Iterable
from typing import Any

import pytest


def in_long(values: Iterable[Any], *kept: Any) -> list[Any]:
    """Parameters of a test: ``make test`` runs it with those that are ``kept``, ``make test-long`` with all."""
    return [value if value in kept else pytest.param(value, marks=pytest.mark.long) for value in values]
