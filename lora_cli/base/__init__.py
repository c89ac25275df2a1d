"""Base models: ``config.json`` to modules and their shapes."""
