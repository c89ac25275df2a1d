"""LC1xx: the files of an adapter. Are they there, and can they be read?"""

from collections.abc import Iterator

from lora_cli.adapter.adapter import SHARDED
from lora_cli.checks.case import Case
from lora_cli.checks.check import OK, REJECTS, UNKNOWN, WRONG, NotChecked, Problems, check, grouped
from lora_cli.errors import FormatError, UnsafePickle
from lora_cli.finding import Location, Problem, Severity
from lora_cli.refs.adapter_files import CONFIG, PICKLED, WEIGHTS
from lora_cli.text import cut, names

WEIGHT_ENDS = (".safetensors", ".bin", ".pt", ".npz", ".gguf", ".npy", ".tensors", ".ckpt", ".nemo")


def _unreadable(case: Case, error: FormatError | None, file: str) -> Iterator[Problem]:
    """The error of a file that can be read as plain bytes, with the file as the subject of its message."""
    listed = case.file(file)
    if error is not None and (listed is None or not listed.defect):
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
       hint="download the file again; an interrupted transfer is the usual cause")  # fmt: skip
def weights_corrupt(case: Case) -> Problems:
    """The weights file is not a complete, well-formed safetensors or torch file.

    Loading fails, or reads other bytes.
    """
    error = case.adapter.weights_error
    if not isinstance(error, UnsafePickle) and case.foreign is None:
        yield from _unreadable(case, error, case.weights_file)


@check("LC103", "weights-pickled", hint="`lora-cli repair` converts it to safetensors without running it")
def weights_pickled(case: Case) -> Problems:
    """The weights are a Python pickle, which was read without running it and contains only tensors.

    Loading a pickle runs its code. This one only builds tensors; the next version of the file may do more.
    """
    if case.adapter.pickled and case.adapter.weights_error is None:
        yield Problem("the weights are a Python pickle; it contains only tensors", case.in_weights())


@check("LC104", "weights-sharded", peft=REJECTS, sglang=UNKNOWN, floor=Severity.ERROR, hint=SHARDED.advice)
def weights_sharded(case: Case) -> Problems:
    """The weights are split over several files.

    PEFT and vLLM only open ``adapter_model.safetensors`` and find nothing. What SGLang does is not known.
    """
    if case.foreign is not None and case.foreign.format is SHARDED:
        message = "the weights are sharded: PEFT and vLLM only load a single file"
        yield Problem(message, Location(cut(case.foreign.file)))


@check("LC105", "unreadable-file", peft=REJECTS, hint="replace it with a regular file inside the adapter's folder")
def unreadable_file(case: Case) -> Problems:
    """A file of the adapter can never be read as plain bytes: a FIFO, a device, a link that is dangling or leaves it.

    Opening a FIFO hangs a server; a link breaks, or shows other files, as soon as the folder is copied or mounted.
    """
    yield from grouped(
        ((f"a file {cut(file.defect)}", file.path) for file in case.adapter.files if file.defect), "", "file"
    )


@check("LC106", "config-missing", peft=REJECTS, hint="use the folder that contains it, or add the file that PEFT wrote")
def config_missing(case: Case) -> Problems:
    """There is no ``adapter_config.json``.

    Rank, scaling and target modules are stored only there; nothing loads weights without it.
    """
    adapter = case.adapter
    is_missing = adapter.config is None and adapter.config_error is None and case.file(CONFIG) is None
    if is_missing and (case.foreign is None or case.foreign.format is SHARDED):
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

    Loading it runs its code: as your server, with your tokens. Nothing is unpickled here: pickles are read opcode by
    opcode, and may look up only what torch writes for tensors, or a trainer for its arguments and states.
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
    """The folder contains a known format that is not a LoRA adapter in PEFT's format.

    PEFT and engines find no weights in it, or weights that do not match.
    """
    foreign, adapter = case.foreign, case.adapter
    if foreign is None or foreign.format is SHARDED or foreign.file == CONFIG:
        return
    message = f"this is {foreign.format.title}, not a LoRA adapter in PEFT's format"
    loads = WRONG if adapter.weight_files and adapter.config is not None else REJECTS
    effects = {"peft": loads} | ({} if adapter.pairs else {"sglang": loads})
    yield Problem(message, Location(cut(foreign.file)), foreign.format.advice, effects)


@check("LC110", "weights-in-pt", peft=REJECTS, vllm=OK, sglang=OK, floor=None,
       hint="`lora-cli repair --engine peft` writes adapter_model.safetensors",
       evidence={"peft": "utils/save_and_load.py (run)"})  # fmt: skip
def weights_in_pt(case: Case) -> Problems:
    """The weights are in ``adapter_model.pt`` alone.

    PEFT looks for ``adapter_model.safetensors`` and ``adapter_model.bin``; engines read the ``.pt``, too.
    """
    weights = case.adapter.weight_files
    if weights and all(path.endswith(".pt") for path in weights):
        yield Problem(f"the weights are in {cut(weights[0])}", Location(cut(weights[0])))
