"""Running engines over HTTP, vLLM and SGLang: the adapters that they serve, and changing them.

``servers`` has a class for each kind of server. ``canary`` proves that an adapter changes a server's output, and
``reconcile`` makes a server serve the desired adapters. Torch-free.
"""
