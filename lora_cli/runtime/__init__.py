"""The warm process: LoRA weights in slots, the composed forward, and its proof. The only package that imports torch."""
