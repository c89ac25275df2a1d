"""Where ``validate --engine`` and the engine differ, and why that stays: cases to reasons, at most 3 in 100."""

from collections.abc import Mapping

ZERO = "the 0 that was trained with is served; nobody means an alpha of 0, so it is called wrong"

VLLM: Mapping[str, str] = {"alphas of zero by pattern": ZERO}

PEFT: Mapping[str, str] = {
    "alphas of zero by pattern": ZERO,
    "another method": "PEFT makes an IA3 of it, which has no effect; only where it has no defaults for one it refuses",
    "r missing": "PEFT takes 8 silently, which here it happens to be",
}
