"""Of all that an origin has, an adapter's own files are taken, of a training run those of the latest checkpoint."""

import pytest

from lora_cli.errors import FormatError, Refused
from lora_cli.fetching.file_selection import latest_checkpoint, select_files
from lora_cli.refs.request import USUAL, Selection
from lora_cli.refs.snapshot import RemoteFile, Revision
from tests.fetching.desk import CONFIG, REF, WEIGHTS

PICKLED = "adapter_model.bin"
SHARDS = [*(f"adapter_model-0000{n}-of-00002.safetensors" for n in (1, 2)), f"{WEIGHTS}.index.json"]
BESIDE = ["README.md", "added_tokens.json", "tokenizer.json", "tokenizer_config.json"]
UNNEEDED = ["optimizer.pt", "model.safetensors", f"checkpoint-5/{CONFIG}", "train.log", ".gitattributes", "docs/a/b.md"]


def listing(*paths: str) -> Revision:
    return Revision(REF, "c" * 40, tuple(RemoteFile(path, 1) for path in paths))


def chosen(*paths: str, selection: Selection = USUAL) -> list[str]:
    return [file.path for file in select_files(listing(*paths), selection)]


@pytest.mark.parametrize(
    ("needed", "others", "selection"),
    [
        ([CONFIG, WEIGHTS, *BESIDE], UNNEEDED, USUAL),
        ([CONFIG, *SHARDS], [], USUAL),
        ([CONFIG, WEIGHTS, "train.log", "docs/a/b.md"], ["optimizer.pt"], Selection(include=("*.log", "docs/*"))),
        ([CONFIG, PICKLED], [], Selection(allow_pickle=True)),
        ([CONFIG, WEIGHTS], [PICKLED], Selection(allow_pickle=True)),
        ([WEIGHTS], [], USUAL),
    ],
    ids=["what it needs", "shards", "globs add", "pickles", "no pickles beside others", "half"],
)
def test_only_what_an_adapter_needs_is_taken(needed: list[str], others: list[str], selection: Selection) -> None:
    assert chosen(*needed, *others, selection=selection) == sorted(needed)


def test_pickled_weights_and_what_can_never_be_read_are_refused() -> None:
    with pytest.raises(Refused, match="only pickled weights") as caught:
        chosen(CONFIG, PICKLED)
    assert "`lora-cli repair REF --engine NAME --to DIR` converts them" in caught.value.hint
    assert "`lora-cli fetch REF --allow-pickle`" in caught.value.hint, "warm, which says this too, has no such option"
    files = (RemoteFile(CONFIG, None, defect="is a FIFO, not a regular file"), RemoteFile(WEIGHTS, 1))
    with pytest.raises(FormatError, match=r"adapter_config\.json: is a FIFO"):
        select_files(Revision(REF, "r1", files), USUAL)


def complete(*folders: str) -> list[str]:
    return [f"{folder}/{name}" for folder in folders for name in (CONFIG, WEIGHTS, "optimizer.pt")]


ODD = ("checkpoint-", "checkpoint-x", "Checkpoint-3", "checkpoint-3.old", "a/checkpoint-4", "checkpoint-٣")
RUNS: dict[str, tuple[list[str], str]] = {
    "the highest number and not the last in the alphabet": (
        [*complete("checkpoint-9", "checkpoint-100", "checkpoint-20"), CONFIG, WEIGHTS],
        "checkpoint-100",
    ),
    "one that is being written is passed over": (
        [*complete("checkpoint-5"), f"checkpoint-7/{CONFIG}", f"checkpoint-8/{WEIGHTS}", "checkpoint-9/x"],
        "checkpoint-5",
    ),
    "only folders of that name right there": ([*complete(*ODD), CONFIG, WEIGHTS, f"checkpoint-{'9' * 20}/x"], ""),
}


@pytest.mark.parametrize("case", RUNS)
def test_the_latest_checkpoint_is_the_highest_that_is_complete(case: str) -> None:
    files, folder = RUNS[case]
    found = latest_checkpoint(listing(*files))
    assert found.ref.subfolder == folder
    assert [file.path for file in select_files(found, USUAL)] == [CONFIG, WEIGHTS]


def test_where_there_is_nothing_the_error_says_what_there_is() -> None:
    folders = listing(*complete("run-10/checkpoint-10", "run-9/checkpoint-8", "run-9/checkpoint-9", "best"))
    with pytest.raises(FormatError, match="there are no checkpoints here"):
        latest_checkpoint(folders)
    with pytest.raises(FormatError) as caught:
        select_files(folders, USUAL)
    assert caught.value.hint == f"it has 3 adapters, in best, run-10, run-9: use hf://org/name/best@{REF.revision}"
    with pytest.raises(FormatError) as caught:
        select_files(listing(*complete("checkpoint-10", "checkpoint-9")), USUAL)
    assert caught.value.hint == f"use hf://org/name/checkpoint-latest@{REF.revision}"
