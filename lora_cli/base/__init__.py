"""Base models: ``config.json``, or the headers of a checkpoint, to modules and their shapes."""
