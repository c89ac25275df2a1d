"""A copy of an adapter that an engine serves as it was trained, with a proof that every update is the same."""

from lora_cli.repair.repair import (
    RepairedAdapter,
    RepairOptions,
    RepairReport,
    RepairSetReport,
    Sameness,
    repair_adapter,
)
from lora_cli.repair.rewrite import DTYPES, Change, Refusal

__all__ = [
    "DTYPES",
    "Change",
    "Refusal",
    "RepairOptions",
    "RepairReport",
    "RepairSetReport",
    "RepairedAdapter",
    "Sameness",
    "repair_adapter",
]
