"""Running servers over HTTP: where they are, and what they say."""
