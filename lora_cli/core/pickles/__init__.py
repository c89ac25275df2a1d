"""What a pickle describes, read by its opcodes against an allow-list: nothing in it is imported, nothing called.

``reader`` walks the opcodes of one pickle; ``allowed`` is what it may look up; ``archive`` and ``legacy`` are the two
ways in which torch lays pickles and storages into a file; ``values`` makes tensors with byte ranges of them.
"""
