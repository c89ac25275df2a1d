"""Load tests of a running server: latencies, also by cold and warm adapters.

``target`` asks the server for its facts; ``requests`` has the requests and their results, ``load`` sends them in an
open loop. ``result`` summarises runs of one seed and of several. Torch-free.
"""
