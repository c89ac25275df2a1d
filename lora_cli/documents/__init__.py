"""Files that people write: manifest, lock, policy and baseline, each mistake with its line."""
