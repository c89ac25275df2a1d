"""Running servers over HTTP: vLLM, SGLang and our own; which adapters they serve, and having them serve others.

``servers`` has a class for each kind. ``effect``
proves that an adapter changes what a server says, and ``reconcile`` makes one server serve what is wanted. Torch-free.
"""
