"""What PEFT makes of an adapter's config: modules, ranks, scales."""
