"""Bounded sets of adapters, one class used twice: in memory, and on the device."""
