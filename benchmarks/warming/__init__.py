"""What ``benchmarks/warm.py`` measures: the forward, the loads, and the memory of the warm process."""
