"""What ``inspect`` is asked of an adapter's numbers: its spectrum, and how it differs from another adapter."""

import os
from collections.abc import Sequence
from dataclasses import replace

from lora_cli.core.reference import AdapterRef
from lora_cli.errors import UsageError
from lora_cli.settings import Settings
from lora_cli.validation import Terms

ONE_THREAD = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What linear algebra asks for its threads when numpy is imported: modules are many and small, and share ours."""


def asking(
    terms: Terms, refs: Sequence[str], base: str | AdapterRef, settings: Settings, *, spectrum: bool, diff: str | None
) -> Terms:
    """``terms`` that ask for the spectrum, beside the weights of ``base``, and for how the one REF lies to ``diff``.

    Raises:
        UsageError: there are several REFs, and only one is compared.
        LoraCliError: ``diff`` cannot be read.
    """
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    if diff is not None:
        if len(dict.fromkeys(refs)) > 1:
            raise UsageError(
                f"--diff compares one adapter with one other, and there are {len(dict.fromkeys(refs))} REFs",
                hint="lora-cli inspect A --diff B",
            )
        from lora_cli.validation.comparison import open_other

        terms = replace(terms, other=open_other(diff, settings))
    if spectrum:
        from lora_cli.validation.spectrum import Weights, open_weights

        terms = replace(terms, spectrum=open_weights(base, terms.base, settings) if base and terms.base else Weights())
    return terms
