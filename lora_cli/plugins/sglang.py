"""The entry point of SGLang's ``sglang.srt.plugins``: adapters are resolved by name at their first request.

SGLang has no interface for that (sglang#15417): a hook goes around the method that looks for a request's adapters. Like
the plugin of vLLM, it does nothing unless ``LORA_CLI_MANIFEST`` or ``LORA_CLI_RESOLVE`` is set. SGLang calls it once in
every process.
"""

import os

TARGET = "sglang.srt.managers.tokenizer_manager.TokenizerManager._resolve_lora_path"


def register() -> None:
    """Register the hook with SGLang."""
    from lora_cli.plugins.names import Names

    names = Names.of(os.environ)
    if names is None:
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from lora_cli.plugins.sglang_hook import Hook

    HookRegistry.register(TARGET, Hook(names).resolve, HookType.AROUND)
