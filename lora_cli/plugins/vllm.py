"""The entry point of vLLM's ``vllm.general_plugins``: adapters are resolved by name at their first request.

vLLM calls it in every process, without arguments. It does nothing unless ``LORA_CLI_MANIFEST`` or ``LORA_CLI_RESOLVE``
is set, and starts nothing before a client asks for an adapter.
"""

from lora_cli.plugins import is_configured

LABEL = "lora_cli"


def register() -> None:
    """Register the resolver with vLLM; a second call does nothing."""
    if is_configured():
        from vllm.lora.resolver import LoRAResolverRegistry

        if LABEL not in LoRAResolverRegistry.get_supported_resolvers():
            from lora_cli.plugins.vllm_resolver import VllmResolver

            LoRAResolverRegistry.register_resolver(LABEL, VllmResolver())
