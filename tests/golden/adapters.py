"""The adapters that are judged and inspected: cases of rules, and what PEFT wrote and the world broke."""

import atexit
import contextlib
import gc
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.checks.made import all_cases, base_directory, made
from tests.corpus.bases import FAMILIES, Base, base_of, write_config
from tests.corpus.breaks import BREAKS, Break
from tests.corpus.goods import NOT_FOR, OPTIONS, options
from tests.corpus.peft_judge import write_adapter
from tests.golden.running import Case
from tests.real_engines import cases as engine_cases
from tests.real_engines.bases import SERVED
from tests.real_engines.families import BASES

FILES = {"torch_save", "delete", "rename_file", "write", "truncate", "link", "fifo"}
"""Fields of a case that changes files: such a one is inspected, as one of experts is."""
BROKEN = frozenset({
    "r missing", "alpha missing", "rsLoRA as a string", "another method", "config a list", "config missing",
    "A missing once", "no tensors", "prefix missing", "down and up", "rank of one pair smaller", "A flat", "integers",
    "double precision", "weights cut by a byte", "weights cut in the header", "weights with a long header",
    "weights a pointer", "weights missing", "weights sharded", "weights in a pickle", "weights in a .pt",
    "the adapter in a folder below", "bfloat16", "a whole head beside", "a copy of the embedding beside",
})  # fmt: skip
"""What is inspected of that which was broken."""
NOT_TEXT = r".*(vision|visual|projector).*|.*\.router"
"""Where PEFT cannot put LoRA, or an engine has no text."""
LARGEST = ("--max-lora-rank", str(engine_cases.MAX_LORA_RANK))


def adapters(folder: Path) -> Iterator[Case]:
    """All cases; what PEFT writes for several is kept in the folder."""
    yield from _from_yaml()
    peft = Peft(folder)
    for number, name in enumerate(OPTIONS):
        able = [family for family in FAMILIES if family not in NOT_FOR.get(name, ())]
        for step in (0, 9):
            family = able[(number + step) % len(able)]
            yield peft.case(f"peft: {name}, {family}", base_of(family), OPTIONS[name], inspected=step == 0)
    for name, base in BASES.items():
        towers = {"exclude_modules": NOT_TEXT} if "vision_config" in base.fields or "llama4" in name else {}
        yield peft.case(f"family: {name}", base, {"target_modules": "all-linear", **towers})
    for number, (name, change) in enumerate(BREAKS.items()):
        family = FAMILIES[number % len(FAMILIES)]
        yield peft.case(f"broken: {name}, {family}", base_of(family), {}, change, inspected=name in BROKEN)
    for family in ("llama", "phi3"):
        yield from _served(peft, family, first=family == "llama")


def _served(peft: "Peft", family: str, *, first: bool) -> Iterator[Case]:
    """The cases of real engines that are no case of the corpus; inspected on the first family."""
    base = SERVED[family]
    for name, changes in engine_cases.MORE_OPTIONS.items():
        yield peft.case(f"served: {name}, {family}", base, changes, judged=LARGEST, inspected=first)
    for name, fields in engine_cases.OTHER_BASES.items():
        other = Base(family, {**base.fields, **fields})
        yield peft.case(f"served: {name}, {family}", base, {}, judged=LARGEST, trained_on=other, inspected=first)
    for name, change in {**engine_cases.MORE_BREAKS, **engine_cases.MEANT}.items():
        inspected = first and name in BROKEN
        yield peft.case(f"served: {name}, {family}", base, {}, change, judged=LARGEST, inspected=inspected)


class Peft:
    """What the real PEFT writes, once for all cases that start from it."""

    def __init__(self, folder: Path) -> None:
        import peft  # noqa: F401
        import torch

        gc.freeze()  # what is imported stays: a search for cycles that goes through it takes most of a second
        atexit.register(gc.unfreeze)
        torch.set_num_threads(1)
        self._folder = folder

    def case(
        self,
        id: str,
        base: Base,
        changes: Mapping[str, Any],
        change: Break | None = None,
        *,
        trained_on: Base | None = None,
        judged: Sequence[str] = (),
        inspected: bool = True,
    ) -> Case:
        """What PEFT wrote with these options on a base, changed, and that is judged against ``base``."""

        def prepare() -> Sequence[str]:
            shutil.copytree(self._written(trained_on or base, changes), "adapter")
            if change is not None:
                change(Path("adapter"))
            return ["adapter", "--base", str(write_config(base, Path("base")))]

        return Case(id, prepare, judged, inspected=inspected)

    def _written(self, base: Base, changes: Mapping[str, Any]) -> Path:
        key = json.dumps([base.config, changes], sort_keys=True)
        directory = self._folder / hashlib.sha256(key.encode()).hexdigest()[:20]
        if not directory.is_dir():
            with contextlib.suppress(AttributeError):  # Llama 4's wrapper has no answer to a prompt without an image
                write_adapter(base, options(base, changes), directory)
        return directory


def _from_yaml() -> Iterator[Case]:
    """The cases of rules; none of another reference or family than its own, or of what stays loaded."""
    for case in all_cases("rules"):
        deployment = {"max_lora_rank": case.get("max_lora_rank"), **case.get("deployment", {})}
        if {"ref", "family"} & case.keys() or deployment.keys() != {"max_lora_rank"}:
            continue
        argv = [] if case.get("values", True) else ["--no-values"]
        argv += [] if case.get("base") != "none" else ["--base", "none"]
        argv += ["--max-lora-rank", str(deployment["max_lora_rank"])] if deployment["max_lora_rank"] else []
        of_experts = "target_parameters" in case.get("config", {})
        prepare = partial(_made, case)
        yield Case(f"rules: {case['case']}", prepare, argv, inspected=of_experts or bool(FILES & case.keys()))


def _made(case: Mapping[str, Any]) -> Sequence[str]:
    made(case, Path("adapter"))
    ref = ["adapter"]
    if name := case.get("name"):
        manifest = {
            "apiVersion": "lora-cli/v1",
            "kind": "AdapterSet",
            "adapters": [{"name": name, "source": "adapter"}],
        }
        Path("set.yaml").write_text(json.dumps(manifest))
        ref = ["--manifest", "set.yaml"]
    return ref if case.get("base") == "none" else [*ref, "--base", str(base_directory(case, Path("base")))]
