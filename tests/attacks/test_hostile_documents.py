"""Manifests, policies and locks that are made to take time and memory end within bounds, with their line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_cli.documents.yaml_nodes import DEPTH, KEYS, NODES
from tests.attacks.measured import within

pytestmark = pytest.mark.slow

CPU_S, PEAK_MB = 2.0, 300.0

MIB = "A" * (1 << 20)
HEAD = "apiVersion: lora-cli/v1\nkind: AdapterSet\n"
ONE = "adapters: [{name: a, source: org/a}]\n"


def doubling() -> str:
    """Aliases of aliases: 9 to the 14th values."""
    levels = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 15)]
    return "\n".join([HEAD, "a0: &a0 [x]", *levels])


HOSTILE: list[tuple[str, Callable[[], str], str]] = [
    ("aliases", doubling, f"more than {NODES} values, including aliases"),
    ("depth", lambda: HEAD + ONE + "base: " + "[" * 5_000_000, "this is not YAML"),
    ("levels", lambda: HEAD + ONE + "base: " + "[" * 500 + "]" * 500, f"nested deeper than {DEPTH} levels"),
    ("blocks", lambda: HEAD + "- " * 5_000_000, "this is not YAML"),
    ("tags", lambda: HEAD + "adapters:\n" + "- !!python/object/apply:os.system ['true']\n" * 300_000, "the tag"),
    ("keys", lambda: HEAD + "".join(f"k{i}: 1\n" for i in range(1_000_000)), f"a mapping of over {KEYS} keys"),
    ("values", lambda: HEAD + "adapters: [" + "1," * 5_000_000 + "]", f"more than {NODES} values"),
    ("mistakes", lambda: HEAD + "adapters: [" + "1," * (NODES - 100) + "]", "more errors are not shown"),
    ("missing", lambda: HEAD + "adapters:\n" + "- {}\n" * (NODES - 100), "more errors are not shown"),
    ("the same name", lambda: HEAD + "adapters:\n" + "- {name: a, source: b/c}\n" * 49_000, "is already the name of"),
    ("a long word many times", lambda: HEAD + f'adapters: [&l "{MIB}",{"*l," * 5000}]', "including aliases"),
    (
        "words many times",
        lambda: HEAD + f'adapters: [&l "{"A" * 120}",{"*l," * 240_000}]',
        "more errors are not shown",
    ),
    ("a long kind", lambda: f'apiVersion: lora-cli/v1\nkind: [&l "{MIB}",{"*l," * 28}]', "kind: this is a list"),
    ("long names", lambda: HEAD + f'adapters: [{{name: [&l "{MIB}",{"*l," * 28}]}}]', "this is a list"),
    ("unknown keys", lambda: HEAD + "".join(f"k{i}: 1\n" for i in range(9_990)), "more errors are not shown"),
    ("a long word", lambda: HEAD + "adapters: [{name: " + "a" * 15_000_000 + ", source: b/c}]", "is not a name"),
    ("a long key", lambda: HEAD + "k" * 15_000_000 + ": 1", "this is not YAML"),
    ("anchors", lambda: HEAD + "adapters: [" + "&a " * 1_000_000, "this is not YAML"),
]


@pytest.mark.parametrize(("text", "said"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_a_hostile_manifest_is_refused_within_its_bounds(text: Callable[[], str], said: str, tmp_path: Path) -> None:
    file = tmp_path / "set.yaml"
    file.write_text(text())
    run = within(CPU_S, PEAK_MB, "fetch", "-f", file, "--offline")
    assert run.code == 2, run.out
    assert said in run.out
    assert f"{file}:" in run.out


def test_of_many_mistakes_a_hundred_are_told_each_with_its_hint(tmp_path: Path) -> None:
    file = tmp_path / "set.yaml"
    file.write_text(HEAD + "adapters:\n" + "- {name: a, sourc: b/c}\n" * 500)
    run = within(CPU_S, PEAK_MB, "validate", "-f", file)
    assert run.code == 2
    assert run.out.count("error: ") == 101
    assert run.out.count("unknown key") + run.out.count("is already the name of") == 100
    assert run.out.count("hint: ") == 100


def test_a_document_beyond_16_mib_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "set.yaml"
    file.write_bytes(HEAD.encode() + b"#" * (16 << 20))
    run = within(CPU_S, PEAK_MB, "fetch", "-f", file, "--offline")
    assert (run.code, "bytes long" in run.out) == (2, True)
