"""LC1xx: the files of an adapter. Are they there, and can they be read?"""

from collections.abc import Iterator

from lora_cli.adapter.adapter import SHARDED, Format
from lora_cli.errors import FormatError, UnsafePickle
from lora_cli.finding import Location, Problem, Severity
from lora_cli.refs.adapter_files import CONFIG, PICKLED, WEIGHTS
from lora_cli.rules.rule import Case, NotChecked, grouped, rule
from lora_cli.text import cut, names

TRAINERS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler", "random_states", "sampler")
"""Beginnings of the names of files with a trainer's arguments and states, which contain no weights."""


def _foreign(case: Case) -> Format | None:
    """The foreign format of the adapter, None if it is PEFT's."""
    return case.adapter.foreign.format if case.adapter.foreign is not None else None


def _unreadable(case: Case, error: FormatError | None, file: str, hint: str) -> Iterator[Problem]:
    """The error of a file that can be read as plain bytes, with the file as the subject of its message."""
    listed = case.file(file)
    if error is not None and (listed is None or not listed.defect):
        message = f"{file} {error.reason}" if error.reason.startswith("is ") else error.reason
        where, _, field = error.where.partition(": ")
        yield Problem(cut(message), Location(cut(where) or file, cut(field)), error.hint or hint)


@rule("LC101", "weights-missing", Severity.ERROR)
def weights_missing(case: Case) -> Iterator[Problem]:
    """There is no file with the adapter's weights.

    *Why is this bad?* PEFT and every engine look for ``adapter_model.safetensors`` (then ``.bin``) by name. Without
    it nothing can be loaded, however complete the config is.

    *Fix*: upload the weights under that name, or use the folder (``/subfolder`` on the Hub) that has them.
    """
    if case.adapter.weight_files or case.adapter.unread or _foreign(case):
        return
    ends = (".safetensors", ".bin", ".pt", ".npz", ".gguf", ".npy", ".tensors", ".ckpt", ".nemo")
    found = [file.path for file in case.adapter.files if file.path.endswith(ends) and file.path not in PICKLED]
    others = [path for path in found if not path.rpartition("/")[2].startswith(TRAINERS)]
    hint = "use the folder that contains the weights, or save the adapter again with save_pretrained()"
    if others:
        message = f"there is no {WEIGHTS}, only {names(others)}, which PEFT and engines do not look for"
        nested = [path.rpartition("/")[0] for path in others if path.endswith("/" + WEIGHTS)]
        hint = f"rename the file to {WEIGHTS} if it contains the LoRA weights"
        hint = f"use the folder that contains them: {cut(nested[0])}" if nested else hint
    elif found:
        message = f"there is no {WEIGHTS}; {names(found)} are files of a trainer, not weights"
    else:
        message = f"there is no {WEIGHTS}, and no other file with weights"
    yield Problem(message, Location(WEIGHTS), hint)


@rule("LC102", "weights-corrupt", Severity.ERROR)
def weights_corrupt(case: Case) -> Iterator[Problem]:
    """The weights file is not a complete, well-formed safetensors or torch file.

    *Why is this bad?* The header names every tensor with its offsets. If it is truncated, is not JSON, or points past
    the end of the file, loading fails, or reads bytes that belong to something else.

    *Fix*: download the file again (an interrupted upload or download is the usual cause), or save the adapter again.
    """
    error = case.adapter.weights_error
    if not isinstance(error, UnsafePickle) and not _foreign(case):
        hint = "download the file again from where it was trained; an interrupted transfer is the usual cause"
        yield from _unreadable(case, error, case.weights_file, hint)


@rule("LC103", "weights-pickled", Severity.WARNING)
def weights_pickled(case: Case) -> Iterator[Problem | NotChecked]:
    """The weights are a Python pickle, which was read without running it and contains only tensors.

    *Why is this bad?* Loading a pickle runs its code. This one only builds tensors; the next version of the
    file may do more. Many registries do not accept pickles at all.

    *Fix*: ``lora-cli repair`` converts it to safetensors without running it.
    """
    if case.adapter.unread:
        yield NotChecked(case.adapter.unread)
    if case.adapter.pickled and case.adapter.weights_error is None:
        yield Problem(
            "the weights are a Python pickle; it contains only tensors",
            case.in_weights(),
            "`lora-cli repair` converts it to safetensors without running it",
        )


@rule("LC104", "weights-sharded", Severity.ERROR)
def weights_sharded(case: Case) -> Iterator[Problem]:
    """The weights are split over several files.

    *Why is this bad?* PEFT and vLLM only open ``adapter_model.safetensors`` and find nothing.

    *Fix*: write all tensors into one ``adapter_model.safetensors``: with ``lora-cli repair``, or with safetensors'
    ``load_file`` of each shard and ``save_file`` of all.
    """
    if _foreign(case) is SHARDED:
        assert case.adapter.foreign is not None
        yield Problem(
            "the weights are sharded: PEFT and vLLM only load a single file",
            Location(cut(case.adapter.foreign.file)),
            SHARDED.advice,
        )


@rule("LC105", "unreadable-file", Severity.ERROR)
def unreadable_file(case: Case) -> Iterator[Problem]:
    """A file of the adapter can never be read as plain bytes: a FIFO, a device, a link that is dangling or leaves it.

    *Why is this bad?* Opening a FIFO hangs a server; a link breaks, or shows another tenant's files, as soon as the
    folder is copied or mounted elsewhere.

    *Fix*: replace it with a regular file.
    """
    messages = ((f"a file {cut(file.defect)}", file.path) for file in case.adapter.files if file.defect)
    hint = "replace it with a regular file inside the adapter's folder"
    yield from grouped(messages, "", "file", hint)


@rule("LC106", "config-missing", Severity.ERROR)
def config_missing(case: Case) -> Iterator[Problem]:
    """There is no ``adapter_config.json``.

    *Why is this bad?* Rank, scaling and target modules are stored only there; neither PEFT nor any engine
    loads weights without it.

    *Fix*: add the config that ``save_pretrained()`` wrote next to the weights.
    """
    if _foreign(case) and _foreign(case) is not SHARDED:
        return
    if case.adapter.config is None and case.adapter.config_error is None and case.file(CONFIG) is None:
        nested = [file.path for file in case.adapter.files if file.path.endswith("/" + CONFIG)]
        which = "that folder" if len(nested) == 1 else "one of these folders"
        hint = f"there is one in {names(nested)}: use {which}" if nested else "add the file that PEFT wrote"
        yield Problem(f"there is no {CONFIG}", Location(CONFIG), hint)


@rule("LC107", "config-unreadable", Severity.ERROR)
def config_unreadable(case: Case) -> Iterator[Problem]:
    """``adapter_config.json`` is not a JSON object with a readable config.

    *Why is this bad?* Nothing can load it.

    *Fix*: restore the file that ``save_pretrained()`` wrote.
    """
    yield from _unreadable(case, case.adapter.config_error, CONFIG, "restore the file that PEFT wrote")


@rule("LC108", "unsafe-pickle", Severity.ERROR, needs=("companions",))
def unsafe_pickle(case: Case) -> Iterator[Problem | NotChecked]:
    """A pickle (the weights or a file next to them) looks up something else than data, or cannot be followed.

    Nothing is unpickled: pickles are read opcode by opcode, and each name that they look up must be one that torch
    writes for tensors, or a trainer for its arguments and states. Next to the weights, files with a pickle's name are
    read (``.bin``, ``.pt``, ``.pkl`` …); arrays, archives and what is compressed are reported as not checked.

    *Why is this bad?* Loading it runs its code: as your server, with your tokens and your users' data. Some engines
    load every ``.bin`` of the folder.

    *Fix*: do not load it anywhere. Inform its publisher, and get the adapter from where it was trained.
    """
    hint = "do not load it; get the adapter from where it was trained, as safetensors"
    error = case.adapter.weights_error
    if isinstance(error, UnsafePickle):
        yield Problem(cut(error.reason), case.in_weights(error.global_name), hint)
    assert case.evidence.companions is not None
    for path, reason in case.evidence.companions.pickles.items():
        yield Problem(cut(reason), Location(cut(path)), hint)
    if case.evidence.companions.pickles_left:
        yield NotChecked(case.evidence.companions.pickles_left)


@rule("LC109", "foreign-format", Severity.ERROR)
def foreign_format(case: Case) -> Iterator[Problem]:
    """The folder contains a known format that is not a LoRA adapter in PEFT's format.

    *Why is this bad?* PEFT and engines find no weights in it, or weights that do not match.

    *Fix*: see the finding.
    """
    foreign = case.adapter.foreign
    if foreign is None or foreign.format is SHARDED or foreign.file == CONFIG:
        return
    yield Problem(
        f"this is {foreign.format.title}, not a LoRA adapter in PEFT's format",
        Location(cut(foreign.file)),
        foreign.format.advice,
    )
