"""Which of a test's parameters run in ``make test-all`` alone."""

from collections.abc import Iterable
from typing import Any

import pytest


def slowly(values: Iterable[Any], *kept: Any) -> list[Any]:
    """Parameters of a test: ``make test`` runs it with those that are ``kept``, ``make test-all`` with the others."""
    return [value if value in kept else pytest.param(value, marks=pytest.mark.slow) for value in values]
