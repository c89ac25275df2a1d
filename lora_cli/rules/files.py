"""LC1xx: the files of an adapter. Are they there, and can they be read?"""

from collections.abc import Iterator

from lora_cli.core.finding import Location, Problem, Severity
from lora_cli.rules.case import CONFIG_FILE, WEIGHTS_FILE, Case
from lora_cli.rules.rule import rule
from lora_cli.rules.wording import clip, grouped, names

PICKLED_FILES = ("adapter_model.bin", "adapter_model.pt")
INDEX_SUFFIX = ".safetensors.index.json"


def _other_weights(case: Case) -> list[str]:
    ends = (".safetensors", ".bin", ".pt", ".npz", ".gguf", ".npy", ".tensors", ".ckpt", ".nemo")
    return [file.path for file in case.adapter.files if file.path.endswith(ends) and file.path not in PICKLED_FILES]


def _pickled(case: Case) -> str:
    """The pickled weights that stand in for missing safetensors ones."""
    if case.file(WEIGHTS_FILE) is not None or _index(case):
        return ""
    return next((path for path in PICKLED_FILES if case.file(path) is not None), "")


def _index(case: Case) -> str:
    """The index of sharded weights, when there is no single file."""
    if case.file(WEIGHTS_FILE) is not None:
        return ""
    return next((file.path for file in case.adapter.files if file.path.endswith(INDEX_SUFFIX)), "")


def _place(where: str, file: str) -> Location:
    """A ``FormatError``'s ``where``, taken apart into file and what in it."""
    head, _, field = where.partition(": ")
    return Location(clip(head) or file, clip(field))


@rule("LC101", "weights-missing", Severity.ERROR)
def weights_missing(case: Case) -> Iterator[Problem]:
    """There is no file with the adapter's weights.

    *Why is this bad?* PEFT and every engine look for ``adapter_model.safetensors`` (then ``.bin``) by name. Without
    it nothing can be loaded, however complete the config is.

    *Fix*: upload the weights under that name, or point at the folder (``/subfolder`` on the Hub) that has them.
    """
    if case.adapter.weight_files or case.file(WEIGHTS_FILE) or _pickled(case) or _index(case):
        return
    others = _other_weights(case)
    if others:
        message = f"there is no {WEIGHTS_FILE}; there is {names(others)}, which PEFT and engines do not look for"
        hint = f"rename the file to {WEIGHTS_FILE} if it holds the LoRA weights"
    else:
        message = f"there is no {WEIGHTS_FILE}, and no other file with weights"
        hint = "point at the folder that holds the weights, or save the adapter again with save_pretrained()"
    yield Problem(message, Location(WEIGHTS_FILE), hint)


@rule("LC102", "weights-corrupt", Severity.ERROR)
def weights_corrupt(case: Case) -> Iterator[Problem]:
    """The weights file is not a whole, well-formed safetensors file.

    *Why is this bad?* The header names every tensor with its offsets. If it is cut off, is not JSON, or points past
    the end of the file, loading fails, or reads bytes that belong to something else.

    *Fix*: get the file again (an interrupted upload or download is the usual cause), or save the adapter again.
    """
    error = case.adapter.weights_error
    if error is None or _pickled(case) or _index(case):
        return
    file = case.file(WEIGHTS_FILE)
    if file is not None and file.defect:
        return
    yield Problem(
        clip(error.reason),
        _place(error.where, WEIGHTS_FILE),
        error.hint or "get the file again from where it was trained; an interrupted transfer is the usual cause",
    )


@rule("LC103", "weights-pickled", Severity.ERROR)
def weights_pickled(case: Case) -> Iterator[Problem]:
    """The weights are a Python pickle, and are not read.

    *Why is this bad?* Unpickling runs whatever the file says. lora-cli never does, so nothing is known about
    these weights.

    *Fix*: load the adapter with PEFT where you trust it, and ``save_pretrained(..., safe_serialization=True)``.
    """
    pickled = _pickled(case)
    if pickled:
        yield Problem(
            "the weights are a Python pickle, which can run code when it is loaded, and were not read",
            Location(pickled),
            "load it with PEFT where you trust it and save it again: save_pretrained() writes safetensors",
        )


@rule("LC104", "weights-sharded", Severity.ERROR)
def weights_sharded(case: Case) -> Iterator[Problem]:
    """The weights are split over several files.

    *Why is this bad?* PEFT and vLLM open ``adapter_model.safetensors`` only, and find nothing.

    *Fix*: write all tensors into one ``adapter_model.safetensors``.
    """
    index = _index(case)
    if index:
        yield Problem(
            "the weights are sharded: PEFT and vLLM read one file and find none",
            Location(index),
            f"write all tensors into one {WEIGHTS_FILE}",
        )


@rule("LC105", "unreadable-file", Severity.ERROR)
def unreadable_file(case: Case) -> Iterator[Problem]:
    """A file of the adapter can never be read as plain bytes: a FIFO, a device, a link that leads nowhere or out.

    *Why is this bad?* Opening a FIFO hangs a server; a link breaks, or shows another tenant's files, as soon as the
    folder is copied or mounted elsewhere.

    *Fix*: replace it with the file that it stands for.
    """
    said = ((f"a file {clip(file.defect)}", file.path) for file in case.adapter.files if file.defect)
    hint = "replace it with a regular file inside the adapter's folder"
    yield from grouped(said, file="", noun="file", hint=hint)


@rule("LC106", "config-missing", Severity.ERROR)
def config_missing(case: Case) -> Iterator[Problem]:
    """There is no ``adapter_config.json``.

    *Why is this bad?* Rank, scaling and target modules stand there and nowhere else; neither PEFT nor any engine
    loads weights without it.

    *Fix*: add the config that ``save_pretrained()`` wrote beside the weights.
    """
    if case.adapter.config is None and case.adapter.config_error is None and case.file(CONFIG_FILE) is None:
        nested = [file.path for file in case.adapter.files if file.path.endswith("/" + CONFIG_FILE)]
        hint = f"there is one in {names(nested)}: point at that folder" if nested else "add the file that PEFT wrote"
        yield Problem(f"there is no {CONFIG_FILE}", Location(CONFIG_FILE), hint)


@rule("LC107", "config-unreadable", Severity.ERROR)
def config_unreadable(case: Case) -> Iterator[Problem]:
    """``adapter_config.json`` is not a JSON object that a config can be read from.

    *Why is this bad?* Nothing loads it.

    *Fix*: restore the file that ``save_pretrained()`` wrote.
    """
    error = case.adapter.config_error
    file = case.file(CONFIG_FILE)
    if error is None or (file is not None and file.defect):
        return
    yield Problem(
        clip(error.reason), _place(error.where, CONFIG_FILE), error.hint or "restore the file that PEFT wrote"
    )
