"""Workloads and their measured runs. Torch-free: what serves a request is a callable that the caller hands in."""
