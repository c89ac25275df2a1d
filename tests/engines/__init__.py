"""Engine profiles: the data itself, and what it says of adapters that have one feature each."""
