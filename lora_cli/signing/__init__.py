"""Signatures of adapters in the OpenSSF Model Signing format, verified (extra ``signing``)."""
