"""Signatures of adapters in the OpenSSF Model Signing format: verify and write them (extra ``signing``)."""
