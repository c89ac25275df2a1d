"""Attacks: what somebody does who writes manifests, adapters, servers or requests, one file a subject."""
