"""The checks, one function each: files LC1xx, config LC2xx, tensors LC3xx, serving LC4xx, values LC5xx, supply LC6xx.

Adding one is a function under ``@check`` in one of these modules, and a case in ``tests/checks``.
"""

from lora_cli.checks import base, config, files, serving, supply, tensors, values  # noqa: F401 (each adds its checks)
from lora_cli.checks.check import CHECKS, UNREAD, Check, choose, find

__all__ = ["CHECKS", "UNREAD", "Check", "choose", "find"]
