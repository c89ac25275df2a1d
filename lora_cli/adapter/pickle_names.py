"""The names that a pickle looks up. Nothing is unpickled: only its opcodes are read, each a lookup or not."""

import io
import pickletools
import re
from collections.abc import Iterator
from typing import Any

from lora_cli.errors import UnsafePickle

MOST_OPCODES = 2_000_000
"""Opcodes of the weights, or of all pickles next to them: those of 36,864 tensors (128 experts in 48 layers) are 1.3
million.
"""

HARMLESS = re.compile(
    r"torch (\w+Storage|Size|device|Tensor|(float|bfloat|complex|u?int)\d\w*|bool)|torch\.storage UntypedStorage|"
    r"torch\._utils _rebuild_(tensor_v[23]|parameter|parameter_with_state)|torch\._tensor _rebuild_from_type_v2|"
    r"torch\.nn\.parameter Parameter|torch\.serialization _get_layout|datetime timedelta|_codecs encode|"
    r"(__builtin__|builtins) (set|frozenset|bytes|bytearray|complex|dict|list|int)|pathlib(\._local)? \w+Path|"
    r"collections (OrderedDict|defaultdict|Counter)|"
    r"numpy (dtype|ndarray)|numpy\._?core\.(multiarray (_reconstruct|scalar)|numeric _frombuffer)|"
    r"transformers\.training_args(_seq2seq)? ((Seq2Seq)?TrainingArguments|OptimizerNames|ParallelMode)|"
    r"transformers\.trainer_utils ((Interval|Save|Hub|Evaluation)Strategy|SchedulerType|FSDPOption)|"
    r"transformers\.(trainer_pt_utils AcceleratorConfig|debug_utils DebugOption)|"
    r"transformers\.generation\.configuration_utils GenerationConfig|"
    r"transformers\.(integrations\.)?deepspeed Hf(Trainer)?DeepSpeedConfig|"
    r"accelerate\.state (PartialState|AcceleratorState)|"
    r"accelerate\.utils\.dataclasses [A-Z]\w*(Type|Backend|Precision|Plugin|Config|Configuration)|"
    r"trl\.(trainer|experimental)(\.[a-z0-9_]+)* [A-Z]\w*Config|"
    r"(__main__|(axolotl|llamafactory|swift)\.[a-z0-9_.]+) [A-Z]\w*Arguments|"
    r"(unsloth_compiled_cache\.)?Unsloth[A-Za-z]+Trainer Unsloth[A-Za-z0-9]+Config",
    re.ASCII,
)
"""A module and a name: what torch writes for tensors, and trainers for their arguments and the states of optimizers,
schedulers and random generators (run: torch 2.15, transformers 5.24, accelerate 1.15, trl 1.16)."""

TEXTS = frozenset(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"))
GETS, PUTS = frozenset(("GET", "BINGET", "LONG_BINGET")), frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
LOOKUPS = frozenset(("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"))


def unfollowed(data: bytes, steps: Iterator[int]) -> str:
    """Why the pickles in ``data``, one after the other, cannot be followed to the end; "" if they can.

    ``steps`` counts the opcodes of all that are looked into. A name from the stack must have been pushed there, or put
    into the memo, as text right before.

    Raises:
        UnsafePickle: it looks up a name that is not ``HARMLESS``.
    """
    stream = io.BytesIO(data)
    while (begin := stream.tell()) < len(data):
        memo: dict[Any, str] = {}
        texts: list[str] = []  # the last two that were pushed, with nothing since
        try:
            for op, arg, at in pickletools.genops(stream):
                if next(steps) >= MOST_OPCODES:
                    return f"there are over {MOST_OPCODES} opcodes, more than any weights need"
                if op.name in LOOKUPS:
                    name = " ".join(texts) if op.name == "STACK_GLOBAL" else str(arg)
                    if not HARMLESS.fullmatch(name):
                        dotted = name.replace(" ", ".")
                        why = f"{dotted[:200]!a}, which neither weights nor trainers need"
                        raise UnsafePickle(why, opcode=op.name, position=at or 0, global_name=dotted)
                if op.name in TEXTS:
                    texts = [*texts[-1:], str(arg)]
                elif op.name in GETS:
                    texts = [*texts[-1:], memo.get(arg, "")]
                elif op.name in PUTS:
                    memo[len(memo) if arg is None else arg] = texts[-1] if texts else ""
                elif op.name not in {"FRAME", "PROTO"}:
                    texts = []
        except ValueError as error:
            return f"cannot be followed as a pickle from byte {begin}: {str(error)[:200]!a}"
    return ""
