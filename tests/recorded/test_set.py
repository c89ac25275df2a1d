"""What was recorded of ``fetch -f``: manifests and their locks."""

from tests.recorded.replaying import replayed

test_it_does_what_it_did = replayed("set")
