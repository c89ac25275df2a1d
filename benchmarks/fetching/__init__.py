"""What ``benchmarks/fetch.py`` is made of: servers, peers, and how pairs of runs are timed."""
