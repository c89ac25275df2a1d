"""Adapters that the real PEFT wrote and that were then broken, and what the real PEFT makes of each."""
