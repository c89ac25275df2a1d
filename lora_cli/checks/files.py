"""LC1xx: the files of an adapter. Are they there, and can they be read?"""

from collections.abc import Iterator

from lora_cli.adapter.reading import SHARDED
from lora_cli.checks.case import Case
from lora_cli.checks.check import OK, REJECTS, UNKNOWN, WRONG, NotChecked, Problems, check, grouped
from lora_cli.errors import FormatError, UnsafePickle
from lora_cli.finding import Location, Problem, Severity
from lora_cli.refs.adapter_files import CONFIG, PICKLED, WEIGHTS
from lora_cli.text import cut, names

WEIGHT_ENDS = (".safetensors", ".bin", ".pt", ".npz", ".gguf", ".npy", ".tensors", ".ckpt", ".nemo")


def _unreadable(case: Case, error: FormatError | None, file: str) -> Iterator[Problem]:
    """The error of a file that can be read as plain bytes, with the file as the subject of its message."""
    if error is not None and not any(one.path == file and one.defect for one in case.adapter.files):
        message = f"{file} {error.reason}" if error.reason.startswith("is ") else error.reason
        where, _, field = error.where.partition(": ")
        yield Problem(cut(message), Location(cut(where) or file, cut(field)), error.hint)


@check("LC101", "weights-missing", peft=REJECTS,
       hint=f"use the folder that contains {WEIGHTS}, or save the adapter again with save_pretrained()")  # fmt: skip
def weights_missing(case: Case) -> Problems:
    """There is no file with the adapter's weights.

    PEFT and every engine look for ``adapter_model.safetensors`` (then ``.bin``) by name.
    """
    if case.adapter.weight_files or case.foreign is not None:
        return
    others = [file.path for file in case.adapter.files if file.path.endswith(WEIGHT_ENDS) and file.path not in PICKLED]
    what = f"only {names(others)}, which nothing looks for" if others else "and no other file with weights"
    yield Problem(f"there is no {WEIGHTS}, {what}", Location(WEIGHTS))


@check("LC102", "weights-corrupt", peft=REJECTS,
       hint="often an interrupted transfer: download it again, or have its owner upload it again")  # fmt: skip
def weights_corrupt(case: Case) -> Problems:
    """The weights file is not a complete, well-formed safetensors or torch file."""
    error = case.adapter.weights_error
    if not isinstance(error, UnsafePickle) and case.foreign is None:
        yield from _unreadable(case, error, case.weights_file)


@check("LC103", "weights-pickled", hint="`lora-cli repair` converts it to safetensors without running it",
       evidence={"peft": "utils/save_and_load.py (run)"})  # fmt: skip
def weights_pickled(case: Case) -> Problems:
    """The weights are a Python pickle, which was read without running it and contains only tensors.

    Loading a pickle runs its code. This one only builds tensors; the next version of the file may do more. PEFT does
    not look for ``adapter_model.pt``; engines do.
    """
    weights = case.adapter.weight_files
    if case.adapter.pickled and case.adapter.weights_error is None:
        effects = {"peft": REJECTS} if all(path.endswith(".pt") for path in weights) else {}
        message = f"the weights are a Python pickle, {cut(weights[0])}; it contains only tensors"
        yield Problem(message, case.in_weights(), effects=effects)


@check("LC105", "unreadable-file", peft=REJECTS, hint="replace it with a regular file inside the adapter's folder")
def unreadable_file(case: Case) -> Problems:
    """A file of the adapter can never be read as plain bytes: a FIFO, a device, a link that is dangling or leaves it.

    Opening a FIFO hangs a server; a link breaks as soon as the folder is copied or mounted.
    """
    yield from grouped(
        ((f"a file {cut(file.defect)}", file.path) for file in case.adapter.files if file.defect), "", "file"
    )


@check("LC106", "config-missing", peft=REJECTS, hint="use the folder that contains it, or add the file that PEFT wrote")
def config_missing(case: Case) -> Problems:
    """There is no ``adapter_config.json``, which alone has rank, scaling and target modules."""
    adapter = case.adapter
    is_missing = (
        adapter.config is None and adapter.config_error is None and all(file.path != CONFIG for file in adapter.files)
    )
    if is_missing and (case.foreign is None or case.foreign.title == SHARDED.title):
        nested = [file.path for file in adapter.files if file.path.endswith("/" + CONFIG)]
        yield Problem(f"there is no {CONFIG}" + (f", only {names(nested)}" if nested else ""), Location(CONFIG))


@check("LC107", "config-unreadable", peft=REJECTS, hint="restore the file that save_pretrained() wrote")
def config_unreadable(case: Case) -> Problems:
    """``adapter_config.json`` is not a JSON object with a readable config: nothing can load it."""
    yield from _unreadable(case, case.adapter.config_error, CONFIG)


@check("LC108", "unsafe-pickle", "companions", peft=REJECTS, floor=Severity.ERROR,
       hint="do not load it anywhere; get the adapter from where it was trained, as safetensors")  # fmt: skip
def unsafe_pickle(case: Case) -> Problems:
    """A pickle (the weights or a file next to them) looks up something else than data, or cannot be followed.

    Loading it runs its code: as your server, with your tokens. Here pickles are only read, opcode by opcode; they may
    look up what torch writes for tensors, or a trainer for its arguments and states.
    """
    error, weights = case.adapter.weights_error, case.adapter.weight_files
    if isinstance(error, UnsafePickle):
        yield Problem(cut(error.reason), case.in_weights(error.global_name))
    for path, reason in case.companions.pickles.items():
        reads = OK if weights and path not in weights else REJECTS
        yield Problem(cut(reason), Location(cut(path)), effects={"peft": reads, "vllm": reads})
    if case.companions.pickles_left:
        yield NotChecked(case.companions.pickles_left)


@check("LC109", "foreign-format", peft=REJECTS)
def foreign_format(case: Case) -> Problems:
    """The folder contains a known format that is not a LoRA adapter in PEFT's format, or weights in several files.

    PEFT and engines find no weights in it, or weights that do not match. What SGLang does with shards is not known.
    """
    foreign, adapter = case.foreign, case.adapter
    if foreign is None or foreign.file == CONFIG:
        return
    message = f"this is {foreign.title}, not a LoRA adapter in PEFT's format"
    loads = WRONG if adapter.weight_files and adapter.config is not None else REJECTS
    effects = {"peft": loads} | ({} if adapter.pairs else {"sglang": loads})
    if foreign.title == SHARDED.title:
        message, effects = f"this is {foreign.title}: PEFT and vLLM load none of them", {"sglang": UNKNOWN}
    yield Problem(message, Location(cut(foreign.file)), foreign.advice, effects)
