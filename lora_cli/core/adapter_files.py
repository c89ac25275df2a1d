"""The names that the files of an adapter have, as PEFT and transformers write them."""

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = ("adapter_model.bin", "adapter_model.pt")
INDEX_SUFFIX = ".index.json"
"""After the name of weights: which shards they are in."""

BESIDE = frozenset(
    {
        "README.md",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "merges.txt",
        "new_embeddings.safetensors",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
    }
)
"""What may lie beside config and weights and is needed to use them, or says where they are from."""
