"""Granite (dense): LLaMA's modules; its multipliers are outside them."""

from lora_cli.core.architectures.llama import FAMILY as LLAMA

FAMILY = LLAMA
