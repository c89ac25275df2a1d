"""From bytes that a source has to what they mean: an adapter, its values, a base model."""
