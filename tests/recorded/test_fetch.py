"""What was recorded of ``fetch`` of references."""

import pytest

from tests.recorded.replaying import check, part


@pytest.mark.parametrize("id", part("fetch"))
def test_it_does_what_it_did(id: str, request: pytest.FixtureRequest) -> None:
    check(id, request)
