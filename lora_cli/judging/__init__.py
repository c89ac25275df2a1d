"""References × a base model → verdicts: the only package that uses fetching, reading and rules together.

``validation.fetch_and_validate`` validates adapters that are to be loaded.
"""

from lora_cli.judging.base_model import Bases, check_tp, open_base, open_config
from lora_cli.judging.validate import check_all, read_all, ref_of, validate
from lora_cli.judging.verdict import Checked, Terms, judge

__all__ = [
    "Bases",
    "Checked",
    "Terms",
    "check_all",
    "check_tp",
    "judge",
    "open_base",
    "open_config",
    "read_all",
    "ref_of",
    "validate",
]
