"""The supply chain for LoRA adapters on their way to an inference engine."""

__version__ = "0.1.0"
