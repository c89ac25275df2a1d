"""What was recorded of ``fetch`` of references."""

from tests.recorded.replaying import replayed

test_it_does_what_it_did = replayed("fetch")
