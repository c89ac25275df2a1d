"""Bounded sets of adapters, one class used three times: on disk, in memory, on the device."""
