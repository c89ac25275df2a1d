"""Of all that an origin has, an adapter's own files are taken."""

import pytest

from lora_cli.errors import FormatError, Refused
from lora_cli.fetching.file_selection import select_files
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.request import Selection
from lora_cli.refs.snapshot import RemoteFile, Revision

REF = AdapterRef("hf", "org/name")
CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
SHARDS = [f"adapter_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
INDEX = f"{WEIGHTS}.index.json"
BESIDE = ["README.md", "added_tokens.json", "tokenizer.json", "tokenizer_config.json"]
UNNEEDED = ["optimizer.pt", "model.safetensors", f"checkpoint-5/{CONFIG}", "train.log", ".gitattributes", "docs/a/b.md"]


def chosen(*paths: str, selection: Selection | None = None) -> list[str]:
    revision = Revision(REF, "r1", tuple(RemoteFile(path, 1) for path in paths))
    return [file.path for file in select_files(revision, selection or Selection())]


@pytest.mark.parametrize(
    ("needed", "others", "selection"),
    [
        ([CONFIG, WEIGHTS, *BESIDE], UNNEEDED, Selection()),
        ([CONFIG, *SHARDS, INDEX], [], Selection()),
        ([CONFIG, WEIGHTS, "train.log", "docs/a/b.md"], ["optimizer.pt"], Selection(include=("*.log", "docs/*"))),
        ([CONFIG, PICKLED], [], Selection(allow_pickle=True)),
        ([CONFIG, WEIGHTS], [PICKLED], Selection(allow_pickle=True)),
        ([CONFIG], [], Selection()),
        ([WEIGHTS], [], Selection()),
    ],
    ids=["what it needs", "shards", "globs add", "pickles", "no pickles beside others", "half", "the other half"],
)
def test_only_what_an_adapter_needs_is_taken(needed: list[str], others: list[str], selection: Selection) -> None:
    assert chosen(*needed, *others, selection=selection) == sorted(needed)


def test_pickled_weights_are_refused_unless_they_are_allowed() -> None:
    with pytest.raises(Refused, match="only pickled weights") as caught:
        chosen(CONFIG, PICKLED)
    assert "`lora-cli repair REF --engine NAME --to DIR` converts them" in caught.value.hint
    assert "`lora-cli fetch REF --allow-pickle`" in caught.value.hint, "warm, which says this too, has no such option"


def test_a_file_that_can_never_be_read_is_said_to_be_so() -> None:
    files = (RemoteFile(CONFIG, None, defect="is a FIFO, not a regular file"), RemoteFile(WEIGHTS, 1))
    with pytest.raises(FormatError, match=r"adapter_config\.json: is a FIFO"):
        select_files(Revision(REF, "r1", files), Selection())
