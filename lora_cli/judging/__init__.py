"""Adapters × a base model × engines → results: where fetching, reading and rules meet."""
