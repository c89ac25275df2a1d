"""What was recorded of ``inspect``."""

from tests.recorded.replaying import replayed

test_it_does_what_it_did = replayed("inspect")
