"""Values and pure functions: what everything above talks about. No I/O."""
