"""What was recorded of the other commands."""

from tests.recorded.replaying import replayed

test_it_does_what_it_did = replayed("others")
