"""Every rule, on adapters that are wrong in one way each: the cases are data, in ``cases/*.yaml``."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from lora_cli.core.adapter_request import AdapterRequest
from lora_cli.core.finding import Deployment
from lora_cli.core.reference import parse
from lora_cli.engines import choose_engine
from lora_cli.reading.adapter import Opened
from lora_cli.rules import RULES
from lora_cli.settings import Settings
from lora_cli.sources.local import LocalSource
from lora_cli.validation import Checked, Terms, judge, open_base, validate
from lora_cli.validation.verdict import gather_evidence
from tests.making import (
    NAMES,
    Q_PROJ,
    Raw,
    llama_modules,
    lora_config,
    lora_tensors,
    raw,
    write_base_config,
    write_safetensors,
)

CASES = Path(__file__).parent / "cases"
FIELDS = {
    "case", "adapter", "config", "remove", "tensors", "fill", "rename", "drop", "write", "delete", "rename_file",
    "torch_save", "truncate", "link", "fifo", "base", "base_config", "scope", "max_lora_rank", "values", "expect",
    "skipped", "applied", "says", "ref", "engine", "deployment", "engines",
    "name", "base_repository",
}  # fmt: skip


def all_cases() -> Iterator[Mapping[str, Any]]:
    for file in sorted(CASES.glob("*.yaml")):
        yield from yaml.load(file.read_text(), yaml.CSafeLoader)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Checked]:
    """Every case, judged once."""
    return {case["case"]: judged(case, tmp_path_factory.mktemp("case")) for case in all_cases()}


@pytest.mark.parametrize("case", list(all_cases()), ids=lambda case: case["case"])
def test_the_rules_say_what_the_case_expects(case: Mapping[str, Any], verdicts: Mapping[str, Checked]) -> None:
    checked = verdicts[case["case"]]

    assert checked.error is None
    assert checked.verdict is not None
    assert {found.code for found in checked.verdict.findings} == set(case["expect"])
    assert case.get("applied") in {None, str(checked.verdict.applied)}
    assert case.get("says", "") in "; ".join(found.problem.message for found in checked.verdict.findings)
    assert set(case.get("skipped", ())) <= {one.code for one in checked.verdict.skipped}


def test_a_class_for_images_is_rejected_once(verdicts: Mapping[str, Checked]) -> None:
    verdict = verdicts["an adapter of a class for images, without a base, is rejected for one reason"].verdict
    assert verdict is not None
    assert [one.code for one in verdict.findings].count("LC402") == 1


def test_each_rule_fires_in_a_case_and_looks_without_finding_in_another(verdicts: Mapping[str, Checked]) -> None:
    fired, silent = set(), set()
    for checked in verdicts.values():
        assert checked.verdict is not None
        found = {one.code for one in checked.verdict.findings}
        fired |= found
        silent |= {rule.code for rule in RULES} - found - {one.code for one in checked.verdict.skipped}

    assert fired == silent == {rule.code for rule in RULES}


def test_each_problem_says_what_where_and_what_to_do(verdicts: Mapping[str, Checked]) -> None:
    for case, checked in verdicts.items():
        assert checked.verdict is not None
        for found in checked.verdict.findings:
            assert found.problem.message, case
            assert found.problem.at.file, case
            assert found.problem.hint, case


@pytest.mark.parametrize(
    ("case", "hint"),
    [
        ("an adapter of another family", "the base has modules like model.embed_tokens"),
        ("the bare class's names without the task", "this base calls the module model.layers.0.self_attn.q_proj"),
        ("an adapter whose layers are all beyond the base", "the base has modules like model.embed_tokens"),
        ("an expert's w1 without its w3", "its experts do not fit the base's fused experts, see LC317"),
    ],
)
def test_the_hint_for_an_adapter_that_changes_nothing_is_about_what_it_has(
    case: str, hint: str, verdicts: Mapping[str, Checked]
) -> None:
    verdict = verdicts[case].verdict
    assert verdict is not None
    assert hint in next(found.problem.hint for found in verdict.findings if found.code == "LC311")


def judged(case: Mapping[str, Any], tmp_path: Path) -> Checked:
    assert case.keys() <= FIELDS, f"{case['case']} has an unknown field"
    directory = tmp_path / "adapter"
    made(case, directory)
    family = case.get("base", "llama")
    settings = Settings(cache_dir=tmp_path / "cache")
    base = None if family == "none" else open_base(str(base_directory(case, tmp_path / "base")), settings)
    engines = tuple(choose_engine(word) for word in case.get("engine", ()))
    deployment = Deployment(**{"max_lora_rank": case.get("max_lora_rank"), **case.get("deployment", {})})
    terms = Terms(
        base,
        values=case.get("values", True),
        engines=engines,
        deployment=replace(deployment, lora_target_modules=tuple(deployment.lora_target_modules or ()) or None),
    )
    checked = validate(AdapterRequest(case.get("name", ""), str(directory)), terms, settings)
    return asked_for(case["ref"], checked, terms) if "ref" in case else checked


def asked_for(ref: str, checked: Checked, terms: Terms) -> Checked:
    """The same adapter, judged as if ``ref`` had been asked for."""
    assert checked.revision is not None
    assert checked.adapter is not None
    meant = parse(ref, is_path=lambda _: False)
    evidence = gather_evidence(Opened(LocalSource(), checked.revision, checked.adapter), terms, meant)
    return replace(checked, verdict=judge(checked.adapter, terms, evidence))


def base_directory(case: Mapping[str, Any], directory: Path) -> Path:
    """The base of the case's family, with the fields that the case gives."""
    if repository := case.get("base_repository"):
        directory /= f"models--{repository.replace('/', '--')}/snapshots/{'5' * 40}"
    written = write_base_config(directory, case.get("base", "llama"))
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | case.get("base_config", {})))
    return written


def made(case: Mapping[str, Any], directory: Path) -> None:
    """The adapter of the case: a good one, then changed as the case says."""
    directory.mkdir(parents=True)
    how = dict(case.get("adapter", {}))
    modules = chosen_modules(how.pop("modules", None), how.pop("layers", 2))
    r, ranks, prefix = how.pop("r", 4), how.pop("ranks", None), how.pop("prefix", "base_model.model.")
    dtype = how.pop("dtype", "float32")
    assert not how, f"{case['case']} has an unknown field in adapter"
    tensors = lora_tensors(modules, r=r, ranks=ranks, dtype=dtype, prefix=prefix)
    tensors |= {name: tensor(spec) for name, spec in case.get("tensors", {}).items()}
    tensors = {renamed(name, case.get("rename", {})): one for name, one in tensors.items()}
    for part, value in case.get("fill", {}).items():
        filled = {name: raw(np.full(one.shape, value), dtype) for name, one in tensors.items() if part in name}
        assert filled, f"{case['case']} fills no tensor"
        tensors |= filled
    for name in case.get("drop", ()):
        del tensors[name]
    write_safetensors(directory / "adapter_model.safetensors", tensors)
    fields = lora_config(modules, r=r) | scope(modules, case) | case.get("config", {})
    for name in case.get("remove", ()):
        del fields[name]
    (directory / "adapter_config.json").write_text(json.dumps(fields))
    change_files(case, directory)


def scope(modules: Mapping[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    """Small adapters are on one layer only: unless the case says otherwise, the config of those says so."""
    layers = {int(part) for module in modules for part in module.split(".") if part.isdecimal()}
    return {} if "scope" in case or len(layers) != 1 else {"layers_to_transform": sorted(layers)}


def chosen_modules(spec: Any, layers: int) -> Mapping[str, tuple[int, int]]:
    if spec is None:
        return {Q_PROJ: (64, 64)}
    if spec == "all":
        return llama_modules(layers=layers)
    return {} if spec == "none" else {module: tuple(shape) for module, shape in spec.items()}


def tensor(spec: Any) -> Raw:
    dtype, shape = (spec["dtype"], spec["shape"]) if isinstance(spec, dict) else (NAMES["float32"], spec)
    if dtype == NAMES["float32"]:
        return raw(np.full(shape, 0.02))
    return Raw(dtype, tuple(shape), b"\1" * int(np.prod(shape)))


def renamed(name: str, replacements: Mapping[str, str]) -> str:
    for old, new in replacements.items():
        name = name.replace(old, new)
    return name


def change_files(case: Mapping[str, Any], directory: Path) -> None:
    for old, new in case.get("torch_save", {}).items():
        torch.save(load_file(directory / old), directory / new)
        (directory / old).unlink()
    for name in case.get("delete", ()):
        (directory / name).unlink()
    for old, new in case.get("rename_file", {}).items():
        (directory / old).rename(directory / new)
    for name, text in case.get("write", {}).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1") if isinstance(text, str) else text)
    for name, size in case.get("truncate", {}).items():
        os.truncate(directory / name, size if size >= 0 else (directory / name).stat().st_size + size)
    for name, target in case.get("link", {}).items():
        (directory / name).symlink_to(target)
    for name in case.get("fifo", ()):
        os.mkfifo(directory / name)


def test_an_adapter_like_the_last_one_is_told_the_same_and_one_that_differs_is_not(tmp_path: Path) -> None:
    terms, settings = Terms(), Settings(cache_dir=tmp_path / "cache")
    texts = []
    for name, config in (("one", {"r": 8}), ("two", {"r": 8}), ("three", {}), ("four", {"r": 8})):
        made({"case": name, "config": config}, tmp_path / name)
        verdict = validate(AdapterRequest("", str(tmp_path / name)), terms, settings).verdict
        assert verdict is not None
        texts.append([(one.code, one.problem) for one in verdict.findings])
    assert texts[0] == texts[1] == texts[3] != texts[2]
    assert "LC301" in {code for code, _ in texts[0]}
