"""The only place where fetch, read and rules meet: references × a base model → verdicts.

What is to be loaded is admitted by ``validation.fetch_and_validate``.
"""

from lora_cli.validation.base_model import Fallback, open_base, open_config
from lora_cli.validation.validate import check_all, read_all, ref_of, validate
from lora_cli.validation.verdict import Checked, Terms, judge

__all__ = [
    "Checked",
    "Fallback",
    "Terms",
    "check_all",
    "judge",
    "open_base",
    "open_config",
    "read_all",
    "ref_of",
    "validate",
]
