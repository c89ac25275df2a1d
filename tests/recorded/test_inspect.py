"""What was recorded of ``inspect``."""

import pytest

from tests.recorded.replaying import check, part


@pytest.mark.parametrize("id", part("inspect"))
def test_it_does_what_it_did(id: str, request: pytest.FixtureRequest) -> None:
    check(id, request)
