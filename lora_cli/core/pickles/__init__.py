"""Pickled weights, read without unpickling.

``allowlist`` has the values and names that may occur, ``machine`` reads one pickle by its opcodes, and
``torch_archive`` finds pickles and tensors in a torch file.
"""
