"""Workloads and their measured runs. Torch-free: requests are served by a callable that the caller passes."""
