"""From a reference to a snapshot on this disk: ``fetching.pipeline`` is one fetch, ``fetching.batch`` many."""
