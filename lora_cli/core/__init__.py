"""Values and pure functions: the vocabulary of all layers above. No I/O."""
