"""References, and what they meant at a moment: revisions, files, requests."""
