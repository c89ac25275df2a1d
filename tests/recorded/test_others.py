"""What was recorded of the other commands."""

import pytest

from tests.recorded.replaying import replayed

pytestmark = pytest.mark.usefixtures("copied_processes")
test_it_does_what_it_did = replayed("others")
