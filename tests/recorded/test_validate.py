"""What was recorded of ``validate``."""

from tests.recorded.replaying import replayed

test_it_does_what_it_did = replayed("validate")
