"""What was recorded of the other commands."""

import pytest

from tests.recorded.replaying import check, part

pytestmark = pytest.mark.usefixtures("copied_processes")


@pytest.mark.parametrize("id", part("others"))
def test_it_does_what_it_did(id: str, request: pytest.FixtureRequest) -> None:
    check(id, request)
