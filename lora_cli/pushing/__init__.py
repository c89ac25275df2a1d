"""Pushes adapters to an OCI registry."""
