"""Of all that an origin has, an adapter's own files are taken."""

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.core.request import Selection
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import FormatError, Refused
from lora_cli.fetching.file_selection import select_files

REF = AdapterRef("hf", "org/name")
USUAL = ("adapter_config.json", "adapter_model.safetensors")


def chosen(*paths: str, selection: Selection | None = None) -> list[str]:
    revision = Revision(REF, "r1", tuple(RemoteFile(path, 1) for path in paths))
    return [file.path for file in select_files(revision, selection or Selection())]


def test_only_what_an_adapter_needs_is_taken() -> None:
    beside = ["README.md", "added_tokens.json", "tokenizer.json", "tokenizer_config.json"]
    unneeded = ["optimizer.pt", "model.safetensors", "checkpoint-5/adapter_config.json", "train.log", ".gitattributes"]
    assert chosen(*USUAL, *beside, *unneeded) == sorted([*USUAL, *beside])


def test_shards_and_their_index_are_taken() -> None:
    shards = [f"adapter_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = "adapter_model.safetensors.index.json"
    assert chosen("adapter_config.json", *shards, index) == sorted(["adapter_config.json", *shards, index])


def test_globs_add() -> None:
    selection = Selection(include=("*.log", "docs/*"))
    assert chosen(*USUAL, "train.log", "docs/a/b.md", selection=selection) == [*USUAL, "docs/a/b.md", "train.log"]
    assert str(Selection()) == ""
    assert str(selection) != str(Selection(include=("*.log",)))


def test_pickled_weights_are_refused_unless_they_are_allowed() -> None:
    with pytest.raises(Refused, match="only pickled weights") as caught:
        chosen("adapter_config.json", "adapter_model.bin")
    assert "`lora-cli repair REF --engine NAME --to DIR --allow-pickle` converts them" in caught.value.hint
    assert "`lora-cli fetch REF --allow-pickle`" in caught.value.hint, "warm, which says this too, has no such option"
    allowed = Selection(allow_pickle=True)
    assert chosen("adapter_config.json", "adapter_model.bin", selection=allowed)[1] == "adapter_model.bin"
    assert chosen(*USUAL, "adapter_model.bin", selection=allowed) == list(USUAL)


def test_half_an_adapter_is_taken_because_judging_it_is_for_others() -> None:
    assert chosen("adapter_config.json") == ["adapter_config.json"]
    assert chosen("adapter_model.safetensors") == ["adapter_model.safetensors"]


def test_a_file_that_can_never_be_read_is_said_to_be_so() -> None:
    files = (RemoteFile("adapter_config.json", None, defect="is a FIFO, not a regular file"), RemoteFile(USUAL[1], 1))
    with pytest.raises(FormatError, match=r"adapter_config\.json: is a FIFO"):
        select_files(Revision(REF, "r1", files), Selection())


def test_a_path_that_leads_out_is_refused_even_when_it_is_asked_for() -> None:
    with pytest.raises(Refused, match="leave its folder"):
        chosen(*USUAL, "../../evil.txt", selection=Selection(include=("*",)))
