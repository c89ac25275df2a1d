"""The checks, one function each: LC1xx files, LC2xx config, LC3xx base and tensors, LC4xx serving, LC6xx supply.

LC5xx are about the values of tensors. Adding a check is a function under ``@check`` in one of these modules, and a case
in ``tests/checks``.
"""

from lora_cli.checks import base, config, files, serving, supply, tensors  # noqa: F401 (each adds its checks)
from lora_cli.checks.check import CHECKS, UNREAD, Check, choose, find

__all__ = ["CHECKS", "UNREAD", "Check", "choose", "find"]
