"""Files that people write: manifest, lock, policy, baseline and model card, each mistake with its line."""
