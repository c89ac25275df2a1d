"""The names that the files of an adapter have, as PEFT and transformers write them."""

import posixpath

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
WEIGHTS_STEM = "adapter_model"
"""How the names of all files with weights begin, shards (``adapter_model-00001-of-00002.bin``) and their index too."""
PICKLED = ("adapter_model.bin", "adapter_model.pt")
BASE_CONFIG = "config.json"
"""A base model's own config."""
BASE_CONFIG_CAP = 8 << 20
"""Its bytes at most; the longest in use (thousands of labels) stay below 1 MiB."""

SIGNATURE = "model.sig"
"""Signs the files of the folder that it is in, in the OpenSSF Model Signing format."""
LARGEST_SIGNATURE = 2 << 20
"""Its bytes at most: an entry for a file has about 200."""

BESIDE = frozenset({
    "README.md", "added_tokens.json", "chat_template.jinja", "chat_template.json", "merges.txt",
    "new_embeddings.safetensors", "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "vocab.json",
})  # fmt: skip
"""Files next to config and weights that are needed to use them, or describe their origin."""

MOST_HEADER = 32 << 20
"""Bytes that a header of safetensors may have: that of 138 240 tensors has 20 MiB."""

_FORMAT_OF = {
    ".safetensors": "safetensors",
    **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"), "pickle"),
}


def format_of(path: str) -> str | None:
    """The weight format that a file's name promises, as a policy has it; None for a file that is not weights."""
    return _FORMAT_OF.get(posixpath.splitext(path)[1].lower())
