"""Features of adapters that engines treat differently, with a detector for each.

The rows of profiles name them. Adding one is a detector and a line in ``FEATURES``.
"""

from collections.abc import Mapping

from lora_cli.rules.features import config, modules, tensors
from lora_cli.rules.features.config import is_set
from lora_cli.rules.features.feature import EngineCase, Feature, Found

__all__ = ["FEATURES", "EngineCase", "Feature", "Found"]

FEATURES: Mapping[str, Feature] = {
    "required-field-missing": Feature(
        "r, lora_alpha or target_modules missing", config.required_field_missing, "LC203"
    ),
    "number-mistyped": Feature("r or lora_alpha that is not a number", config.number_mistyped),
    "not-lora": Feature("peft_type is not LORA", config.not_lora, "LC201"),
    "rslora": Feature("rsLoRA (use_rslora)", config.rslora),
    "rslora-worded": Feature("a use_rslora that is a word other than true", config.rslora_worded, "LC204"),
    "module-scales": Feature("rank_pattern or alpha_pattern that changes a scale", config.module_scales),
    "pattern-broken": Feature(
        "invalid regular expression in rank_pattern or alpha_pattern", config.pattern_broken, "LC208"
    ),
    "pattern-empty": Feature(
        "rank_pattern or alpha_pattern that is null or an empty list", config.pattern_empty, "LC202"
    ),
    "pattern-untyped": Feature(
        "rank_pattern or alpha_pattern that is a list, a string or a number", config.pattern_untyped, "LC202"
    ),
    "rank-unusable": Feature("an r that is not a positive number", config.rank_unusable, "LC202"),
    "rank-fraction": Feature("an r that is a fraction or true", config.rank_fraction, "LC202"),
    "pattern-rank-unusable": Feature(
        "a value of rank_pattern that is not a positive integer", config.pattern_rank_unusable, "LC202"
    ),
    "module-rank-unusable": Feature(
        "such a value, for a module of the adapter", config.module_rank_unusable, "LC202", ("pattern-rank-unusable",)
    ),
    "module-rank-true": Feature("true in rank_pattern, for a module of the adapter", config.module_rank_true, "LC202"),
    "alpha-unusable": Feature("a lora_alpha that is not a number", config.alpha_unusable, "LC203"),
    "module-alpha-unusable": Feature(
        "no number in alpha_pattern, for a module of the adapter", config.module_alpha_unusable, "LC203"
    ),
    "module-alpha-null": Feature(
        "null in alpha_pattern, for a module of the adapter", config.module_alpha_null, "LC203"
    ),
    "alpha-harmful": Feature(
        "an alpha that is 0 (or below 1e-9), negative, NaN or a boolean", config.alpha_harmful, "LC203"
    ),
    "dora": Feature("DoRA (use_dora)", is_set("use_dora")),
    "bias": Feature("trained biases (bias)", config.bias),
    "bias-untyped": Feature("a bias that is not a string (e.g. null)", config.bias_untyped, "LC204"),
    "lora-bias": Feature("a bias on lora_B (lora_bias)", config.lora_bias),
    "init-changes-base": Feature("PiSSA, OLoRA, CorDA, LoftQ (init_lora_weights)", config.init_changes_base),
    "init-not-known": Feature("unknown init_lora_weights", config.init_not_known, "LC209"),
    "init-iterated": Feature("PiSSA by iterations (pissa_niter_…)", config.init_iterated, along=("init-changes-base",)),
    "alora": Feature("activated LoRA (alora_invocation_tokens)", is_set("alora_invocation_tokens")),
    "layer-replication": Feature("replicated layers (layer_replication)", is_set("layer_replication")),
    "bdlora": Feature("BD-LoRA (use_bdlora)", config.bdlora),
    "qalora": Feature("QALoRA (use_qalora)", is_set("use_qalora")),
    "arrow": Feature("Arrow (arrow_config)", is_set("arrow_config")),
    "kasa": Feature("KaSA, MonteCLoRA (lora_diag, …)", tensors.kasa, along=("names-outside-grammar",)),
    "modules-to-save": Feature(
        "modules_to_save other than score and classifier", config.modules_to_save, along=("saved-vocabulary",)
    ),
    "saved-vocabulary": Feature("a saved embedding or head", tensors.saved_vocabulary, along=("modules-to-save",)),
    "saved-head": Feature("a saved classification head", tensors.saved_head),
    "saved-other": Feature(
        "other saved modules (e.g. a norm)", tensors.saved_other, along=("modules-to-save", "names-outside-grammar")
    ),
    "trained-tokens": Feature("trained tokens (trainable_token_indices)", tensors.trained_tokens),
    "added-tokens": Feature("added tokens beyond the vocabulary", tensors.added_tokens, "LC322"),
    "targets-pattern": Feature("target_modules as a regular expression", config.targets_pattern),
    "targets-null": Feature("target_modules null", config.targets_null, "LC205"),
    "targets-nothing": Feature("targets that the base does not have", config.targets_nothing),
    "pt-alone": Feature("weights in adapter_model.pt alone", tensors.pt_alone),
    "sharded": Feature("sharded weights", tensors.sharded, "LC104"),
    "stray-weights": Feature("other *.safetensors next to the weights", tensors.stray_weights),
    "rank-above-max": Feature("a rank above max_lora_rank", modules.rank_above_max),
    "rank-not-r": Feature("tensors with a rank other than r", tensors.rank_not_r, along=("module-scales",)),
    "packed-ranks": Feature(
        "different ranks in q, k, v or gate, up", modules.packed_ranks, along=("module-scales", "rank-not-r")
    ),
    "missing-b": Feature("lora_B missing", modules.missing_b, "LC302"),
    "missing-a": Feature("lora_A missing", modules.missing_a, "LC302"),
    "missing-a-packed": Feature("lora_A missing in q, k, v or gate, up", modules.missing_a_packed, "LC302"),
    "q-without-v": Feature("q without v", modules.q_without_v),
    "kv-without-q": Feature("k or v without q", modules.kv_without_q),
    "up-without-gate": Feature("up without gate", modules.up_without_gate),
    "embedding-rows": Feature("LoRA on an embedding with a different vocabulary", modules.embedding_rows, "LC314"),
    "names-outside-grammar": Feature("tensor names that it cannot parse", modules.names_outside_grammar, "LC305"),
    "named-twice": Feature("one factor under two names", modules.named_twice, "LC303"),
    "unexpected-modules": Feature(
        "modules that its model does not have", modules.unexpected_modules, "LC312", ("partly-lands",)
    ),
    "nothing-lands": Feature("no module applies", modules.nothing_lands, "LC311"),
    "partly-lands": Feature("some modules do not apply", modules.partly_lands, "LC312"),
    "two-into-one": Feature("two modules with the same layer and name", modules.two_into_one),
    "tower": Feature("LoRA on a vision or audio tower", modules.tower),
    "factor-flat": Feature("a factor that is not a matrix", modules.factor_flat, "LC306"),
    "shape-larger": Feature("factors wider than the base's module", modules.shape_larger, "LC314"),
    "shape-smaller": Feature("factors narrower than the base's module", modules.shape_smaller, "LC314"),
    "rows-reordered": Feature("q or k of Llama 4, whose rows are reordered", modules.rows_reordered),
    "experts-fused": Feature("fused experts (target_parameters)", modules.experts_fused),
    "experts-alone": Feature("one parameter of fused experts only", modules.experts_alone),
    "experts-incomplete": Feature("some experts or projections only", modules.experts_incomplete),
    "filtered": Feature("modules excluded by --lora-target-modules", modules.filtered),
    "pinned-beyond-slots": Feature("as many pinned adapters as max_loras", modules.pinned_beyond_slots),
    "base-without-lora": Feature("a base whose class has no LoRA", modules.base_without_lora),
    "other-model": Feature("another kind of model (diffusion, images, sound)", modules.other_model),
}
"""All features by the name in rows."""
