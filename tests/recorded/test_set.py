"""What was recorded of ``fetch -f``: manifests and their locks."""

import pytest

from tests.recorded.replaying import check, part


@pytest.mark.parametrize("id", part("set"))
def test_it_does_what_it_did(id: str, request: pytest.FixtureRequest) -> None:
    check(id, request)
