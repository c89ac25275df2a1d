"""What adapters cost: requests to a server, timed by where it had the adapter, and the hits of slots simulated.

No torch: ``workload`` makes the requests or reads a trace, ``client`` sends them, ``measure`` starts our own server and
sums up the answers; ``simulate`` needs no server.
"""
