"""Headers as large as they may be, filled with the most work: judged within 2 s and 300 MB, or 10 s and 600 MB.

A kind of header that takes more than its length is known by half of a small one, too.
"""

import json
from pathlib import Path

import pytest

from lora_cli.adapter.safetensors import LONGEST_NAME, MOST_TENSORS, parse_header
from lora_cli.errors import FormatError
from lora_cli.refs.adapter_files import MOST_HEADER
from lora_cli.settings import load_settings
from tests.attacks.headers import CONFIG, MIB, QWEN3_235B, TENSORS, TEXTS, experts, header, of, write
from tests.attacks.measured import Run, lora_cli, within
from tests.making import write_base
from tests.slow import slowly

pytestmark = pytest.mark.slow

ENGINES = [word for engine in ("vllm", "sglang", "peft") for word in ("--engine", engine)]
SMALL, LARGE = 4 * MIB - 64, MOST_HEADER - 64
SIZES = [(SMALL, 2, 300), pytest.param(LARGE, 10, 600, marks=pytest.mark.slow)]
LONGEST_OUTPUT = 200_000
USUAL = ("lists", "metadata", "blanks")
LARGEST = ("a shape for each", "a name in memory for each", "layers that no base has", "embeddings")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    (folder / "config.json").write_text(json.dumps(QWEN3_235B))
    return folder


def is_clean(run: Run) -> None:
    assert run.code in {0, 1}, run.out[-2000:]
    assert "Traceback" not in run.out
    assert len(run.out) < LONGEST_OUTPUT


@pytest.mark.parametrize("name", slowly(TENSORS, "layers that no base has"))
def test_a_header_of_4_mib_is_judged_in_2_seconds(name: str, tmp_path: Path, base: Path) -> None:
    adapter = write(tmp_path / "adapter", *header(SMALL, of(TENSORS[name], 0)))
    is_clean(within(3, 300, "validate", adapter, "--base", base, *ENGINES))


@pytest.mark.parametrize(
    ("name", "size", "cpu_s", "peak_mb"),
    [
        *(pytest.param(name, LARGE, 10, 600, marks=[pytest.mark.slow][: name != "lists"]) for name in TEXTS),
        *(pytest.param(name, SMALL, 2, 300, marks=[pytest.mark.slow][: name not in USUAL]) for name in TEXTS),
    ],
)
def test_json_that_is_no_header_costs_no_more(
    name: str, size: int, cpu_s: float, peak_mb: float, tmp_path: Path
) -> None:
    adapter = write(tmp_path / "adapter", TEXTS[name](size))
    is_clean(within(cpu_s, peak_mb, "validate", adapter, "--base", "none"))
    is_clean(within(cpu_s, peak_mb, "inspect", adapter))


@pytest.mark.parametrize("name", slowly(LARGEST, "a name in memory for each"))
def test_a_header_at_the_limit_is_judged_in_10_seconds(name: str, tmp_path: Path, base: Path) -> None:
    tensors = of(TENSORS[name], LARGE)
    adapter = write(tmp_path / "adapter", *header(LARGE, tensors, MOST_TENSORS))
    is_clean(within(10, 600, "validate", adapter, "--base", base, *ENGINES))


@pytest.mark.parametrize("name", slowly(LARGEST, "embeddings"))
def test_a_header_at_the_limit_is_inspected_in_10_seconds(name: str, tmp_path: Path, base: Path) -> None:
    tensors = of(TENSORS[name], LARGE)
    adapter = write(tmp_path / "adapter", *header(LARGE, tensors, MOST_TENSORS))
    is_clean(within(10, 600, "inspect", adapter, "--base", base))


@pytest.mark.parametrize(("size", "cpu_s", "peak_mb"), SIZES)
def test_repair_takes_no_more(size: int, cpu_s: float, peak_mb: float, tmp_path: Path) -> None:
    adapter = write(tmp_path / "adapter", *header(size, of(TENSORS["embeddings"], size), MOST_TENSORS))
    assert within(cpu_s, peak_mb, "repair", adapter, "--engine", "vllm", "--check").code == 1


def test_warm_refuses_the_largest_within_the_same_bounds(tmp_path: Path) -> None:
    adapter = write(tmp_path / "adapter", *header(LARGE, of(TENSORS["embeddings"], LARGE), MOST_TENSORS))
    tiny = write_base(tmp_path / "tiny")
    assert within(10, 600, "warm", adapter, "--base", tiny, "--once", "--device", "cpu").code == 1


@pytest.mark.parametrize("form", slowly(("json", "sarif", "junit", "github"), "json", "sarif"))
def test_reports_tell_a_bounded_number_of_findings(form: str, tmp_path: Path, base: Path) -> None:
    adapter = write(tmp_path / "adapter", *header(SMALL, of(TENSORS["a name in memory for each"], 0)))
    run = within(3, 300, "validate", adapter, "--base", base, *ENGINES, "--format", "json")
    assert len(run.out) < 10 * LONGEST_OUTPUT


@pytest.mark.parametrize("name", slowly(("empty", "A without B"), "A without B"))
def test_more_tensors_than_any_adapter_has_are_refused(name: str, tmp_path: Path, base: Path) -> None:
    adapter = write(tmp_path / "adapter", *header(LARGE, of(TENSORS[name], 0)))
    run = within(10, 600, "validate", adapter, "--base", base)
    assert run.code == 1
    assert f"over {MOST_TENSORS} tensors" in " ".join(run.out.split())


def test_factors_of_each_expert_of_a_model_of_235_billion_are_accepted(tmp_path: Path, base: Path) -> None:
    text, nbytes = header(LARGE, experts(94, 128))
    assert text.count('"dtype"') == 72_192
    assert 10 * MIB < len(text) < 11 * MIB
    adapter = write(tmp_path / "adapter", text, nbytes)
    run = within(10, 600, "validate", adapter, "--base", base, "--engine", "vllm", "--no-values")
    assert "LC102" not in run.out
    run = within(10, 600, "inspect", adapter)
    assert "36096 modules" in run.out


def test_the_limit_of_headers_is_32_mib_unless_an_operator_says_otherwise(tmp_path: Path) -> None:
    assert load_settings({}, {"HOME": "/"}).max_header_bytes == 32 * MIB
    adapter = write(tmp_path / "adapter", "{" + " " * MOST_HEADER + "}")
    for command in ("validate", "inspect"):
        run = lora_cli(command, adapter, *(["--base", "none"] if command == "validate" else []))
        assert run.code == 1
        assert "but 33554432 are allowed" in " ".join(run.out.split())


def test_other_weights_beside_none_are_read_no_further_than_2_mib(tmp_path: Path) -> None:
    folder = write(tmp_path / "made", *header(LARGE, of(TENSORS["empty"], LARGE), MOST_TENSORS))
    for number in range(8):
        (tmp_path / f"other{number}.safetensors").hardlink_to(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    is_clean(within(2, 300, "validate", tmp_path, "--base", "none"))


@pytest.mark.parametrize("length", [LONGEST_NAME, LONGEST_NAME + 1])
def test_a_name_is_read_up_to_1024_characters(length: int) -> None:
    entry = '{"%s":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    for text in (entry % ("x" * length), entry.replace(",", "  ,") % ("x" * length)):
        if length <= LONGEST_NAME:
            assert len(parse_header(text.encode(), None, "f").tensors) == 1
        else:
            with pytest.raises(FormatError, match="its name has 1025 characters, over the limit of 1024"):
                parse_header(text.encode(), None, "f")
