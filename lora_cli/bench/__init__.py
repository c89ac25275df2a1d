"""What adapters cost: requests to a server, timed by where it had the adapter, and the hits of slots simulated.

No torch: ``workload`` and ``trace`` make the requests, ``client`` sends them, ``measure`` sums up the answers;
``server`` starts our own server, and ``simulate`` needs none.
"""
