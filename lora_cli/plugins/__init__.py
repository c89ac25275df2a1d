"""Entry points inside inference engines: adapters that the engine gets at the first request for their name."""
