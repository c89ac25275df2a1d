"""Running servers over HTTP: vLLM, SGLang and our own; which adapters they serve, and having them serve others.

``server`` says what a kind of server is asked; a file each knows how vLLM, SGLang and ours are asked it. ``effect``
proves that an adapter changes what a server says, and ``reconcile`` makes one server serve what is wanted. Torch-free.
"""
