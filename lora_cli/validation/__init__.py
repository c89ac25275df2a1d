"""The only place where fetch, read and rules meet: references × a base model → verdicts.

What is to be loaded is admitted by ``validation.admission``.
"""

from lora_cli.validation.base import Fallback, open_base, open_config
from lora_cli.validation.many import check_all
from lora_cli.validation.outcome import Checked
from lora_cli.validation.place import check_in_place, is_path
from lora_cli.validation.verdict import Terms, judge

__all__ = [
    "Checked",
    "Fallback",
    "Terms",
    "check_all",
    "check_in_place",
    "is_path",
    "judge",
    "open_base",
    "open_config",
]
