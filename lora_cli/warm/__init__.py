"""Adapters in memory and in slots on a device, each proved with a reference forward; the HTTP server that holds them.

``worker`` holds model and adapters in one process; ``server`` is that process behind HTTP, and ``supervisor`` starts it
again when it dies. ``tiers``, ``plan``, ``once`` and ``supervisor`` need no torch.
"""
