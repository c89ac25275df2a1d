"""Which of a test's parameters and examples are only for ``make test-long``."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings


def in_long(values: Iterable[Any], *kept: Any) -> list[Any]:
    """Parameters of a test: ``make test`` runs it with those that are ``kept``, ``make test-long`` with all."""
    return [value if value in kept else pytest.param(value, marks=pytest.mark.long) for value in values]


def examples(many: int) -> int:
    """``max_examples`` of a property: ``make test-long`` draws so many new ones, ``make test`` the same fifth."""
    return many // 5 if settings().derandomize else many
