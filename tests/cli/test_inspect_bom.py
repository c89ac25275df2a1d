"""``inspect --format cyclonedx``: bills of materials that the official schema takes, and what they say."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_cli import __version__
from lora_cli.cli.adapter_selection import Inputs
from lora_cli.cli.inspect_bom import write_bom
from lora_cli.cli.main import main
from lora_cli.core.adapter_request import AdapterRequest
from lora_cli.core.inspection import Inspection, inspection_of
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.fetching.locked_files import sha256_from
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.validation import Checked, Terms, check_all
from tests.bill_of_materials import Object, check_bom, properties
from tests.corpus.breaks import BREAKS
from tests.hostile_names import NAMES, texts
from tests.hub_server import Hub
from tests.making import REMOVE, llama_modules, write_adapter, write_base_config
from tests.object_servers import S3Server
from tests.rule_cases import all_cases, made
from tests.traffic import counted

Captured = pytest.CaptureFixture[str]
Bom = Callable[..., Object]
COMMIT = "5f0b02c75b57c5855da9ae460ce51323ea669d8a"
CARD = """---
base_model: acme/base
license: apache-2.0
---
"""


@pytest.fixture
def bom(capsys: Captured) -> Bom:
    """Runs ``inspect --format cyclonedx``; gives the document, which is valid."""

    def run(*argv: str | Path, code: int = 0) -> Object:
        assert main(["inspect", *map(str, argv), "--format", "cyclonedx"]) == code
        return check_bom(capsys.readouterr().out)

    return run


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    """An adapter with a model card."""
    folder = write_adapter(tmp_path / "sql", modules=llama_modules(), config={"peft_version": "0.21.2"})
    (folder / "README.md").write_text(CARD)
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_local_adapter_is_described_by_its_bytes(sql: Path, bom: Bom) -> None:
    document = bom(sql)
    names = ("README.md", "adapter_config.json", "adapter_model.safetensors")
    lines = sorted(f"{sha256(sql / name)}  {(sql / name).stat().st_size}  {name}\n" for name in names)
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    base = {
        "type": "machine-learning-model",
        "group": "tiny",
        "name": "base",
        "version": COMMIT,
        "purl": f"pkg:huggingface/tiny/base@{COMMIT}",
    }
    component = document["components"][0]

    assert document["metadata"]["tools"]["components"][0]["version"] == __version__
    assert "timestamp" not in document["metadata"]
    assert document["components"][1:] == [base | {"bom-ref": base["purl"]}]
    assert document["dependencies"] == [{"ref": f"sql@sha256:{digest}", "dependsOn": [base["purl"]]}]
    assert component["type"] == "machine-learning-model"
    assert (component["name"], component["version"]) == ("sql", f"sha256:{digest}")
    assert component["licenses"] == [{"license": {"id": "Apache-2.0", "acknowledgement": "declared"}}]
    assert component["pedigree"] == {"ancestors": [base]}
    assert [(one["type"], one["name"], one["hashes"]) for one in component["components"]] == [
        ("file", name, [{"alg": "SHA-256", "content": sha256(sql / name)}]) for name in names
    ]
    assert component["modelCard"]["modelParameters"] == {
        "task": "CAUSAL_LM",
    }
    assert properties(component) == {
        "snapshot:sha256": [digest],
        "format": ["PEFT LoRA, safetensors"],
        "parameters": ["8192"],
        "dtype": ["F32"],
        "peft_type": ["LORA"],
        "lora:rank": ["4"],
        "lora:alpha": ["8"],
        "lora:scaling": ["2"],
        "lora:modules": ["14"],
        "lora:target_module": sorted(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
    }


def test_the_same_bytes_give_the_same_document_wherever_they_are(
    sql: Path, tmp_path: Path, bom: Bom, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(sql, tmp_path / "elsewhere" / "sql", copy_function=shutil.copyfile)
    document = bom(sql)
    assert bom(copy) == document
    assert str(tmp_path) not in json.dumps(document)

    (copy / "README.md").write_text(CARD + "one more line\n")
    changed = bom(copy)
    assert changed["serialNumber"] != document["serialNumber"]
    assert changed["components"][0]["version"] != document["components"][0]["version"]

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    assert bom(sql)["metadata"]["timestamp"] == "2026-09-21T14:13:20Z"


def test_what_it_digests_is_what_fetch_stores(sql: Path, tmp_path: Path, bom: Bom, capsys: Captured) -> None:
    assert main(["fetch", str(sql), "--cache-dir", str(tmp_path / "cache")]) == 0
    stored = Path(capsys.readouterr().out.strip()).name
    assert properties(bom(sql)["components"][0])["snapshot:sha256"] == [stored]


def test_a_remote_adapter_is_described_without_its_weights(
    sql: Path, bom: Bom, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapter(sql, modules={f"model.layers.{layer}.mlp.up_proj": (64, 4096) for layer in range(16)}, r=16)
    with Hub() as hub, counted(hub.endpoint, hub.cdn) as passing:
        files = {f"a b/{path.name}": path.read_bytes() for path in sql.iterdir()}
        commit = hub.add("Acme/SQL", {**files, "README.md": b"the whole repository"})
        hub.cdn = f"http://127.0.0.1:{passing.ports[1]}"
        endpoint = f"http://127.0.0.1:{passing.ports[0]}"
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        component = bom("hf://Acme/SQL/a b")["components"][0]
        assert 0 < passing.received < 200_000 < len(files["a b/adapter_model.safetensors"])

    assert component["purl"] == f"pkg:huggingface/Acme/SQL@{commit}?repository_url={endpoint}#a%20b"
    assert (component["group"], component["name"], component["version"]) == ("Acme", "SQL/a b", commit)
    assert component["supplier"] == {"name": "Acme", "url": [f"{endpoint}/Acme"]}
    assert component["externalReferences"] == [
        {"type": "distribution", "url": f"{endpoint}/Acme/SQL/tree/{commit}/a%20b"},
        {"type": "model-card", "url": f"{endpoint}/Acme/SQL/blob/{commit}/a%20b/README.md"},
    ]
    listed = {one["name"]: one for one in component["components"]}
    weights = [{"alg": "SHA-256", "content": sha256(sql / "adapter_model.safetensors")}]
    assert listed["adapter_model.safetensors"]["hashes"] == weights
    assert "swhid" not in listed["adapter_model.safetensors"]  # the git blob is a pointer
    data = (sql / "adapter_config.json").read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    assert listed["adapter_config.json"]["swhid"] == [f"swh:1:cnt:{blob}"]
    assert "hashes" not in listed["adapter_config.json"]
    assert "snapshot:sha256" not in properties(component)


def test_once_it_is_fetched_each_file_has_its_digest(
    sql: Path, bom: Bom, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub() as hub:
        commit = hub.add("acme/sql", {path.name: path.read_bytes() for path in sql.iterdir()})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert main(["fetch", "hf://acme/sql"]) == 0
        digest = Path(capsys.readouterr().out.strip()).name
        component = bom("hf://acme/sql")["components"][0]
        offline = bom("hf://acme/sql", "--offline")["components"][0]
    for one in (component, offline):
        assert {file["name"]: file["hashes"][0]["content"] for file in one["components"]} == {
            path.name: sha256(path) for path in sql.iterdir()
        }
        assert properties(one)["snapshot:sha256"] == [digest]
        assert one["version"] == commit


def test_a_lock_knows_the_digests_of_what_is_not_here(
    sql: Path, tmp_path: Path, bom: Bom, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tmp_path / "set.yaml"
    entries = "  - {name: tables, source: hf://acme/sql}\n  - {name: again, source: hf://acme/sql}\n"
    manifest.write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n{entries}")
    with Hub() as hub:
        hub.add("acme/sql", {path.name: path.read_bytes() for path in sql.iterdir()})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert main(["fetch", "-f", str(manifest)]) == 0
        capsys.readouterr()
        document = bom("-f", manifest, "--cache-dir", tmp_path / "empty")
    first, second, base = document["components"]
    assert [properties(one)["name"] for one in (first, second)] == [["tables"], ["again"]]
    assert second["bom-ref"] == f"{first['purl']}#2"
    assert {one["name"] for one in first["components"] if "hashes" in one} == {path.name for path in sql.iterdir()}
    assert document["dependencies"] == [
        {"ref": one["bom-ref"], "dependsOn": [base["bom-ref"]]} for one in (first, second)
    ]


def test_an_adapter_in_a_bucket_has_its_address_and_no_purl(
    sql: Path, bom: Bom, seaweed_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = seaweed_server.place()
    seaweed_server.put(place, {f"100 % é/{path.name}": path.read_bytes() for path in sql.iterdir()})
    for name, value in seaweed_server.environ.items():
        monkeypatch.setenv(name, value)
    component = bom(f"s3://{place}/100 % é")["components"][0]
    assert "purl" not in component
    assert component["externalReferences"] == [{"type": "distribution", "url": f"s3://{place}/100%20%25%20%C3%A9"}]
    assert properties(component)["source"] == [f"s3://{place}/100 % é"]


BASES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "a repository": (
        {"base_model_name_or_path": "Acme/Base", "revision": None},
        {"group": "Acme", "name": "Base", "purl": "pkg:huggingface/Acme/Base"},
    ),
    "a commit in capitals": (
        {"base_model_name_or_path": "Acme/Base", "revision": COMMIT.upper()},
        {"group": "Acme", "name": "Base", "version": COMMIT, "purl": f"pkg:huggingface/Acme/Base@{COMMIT}"},
    ),
    "a branch": (
        {"base_model_name_or_path": "acme/base", "revision": "unsloth"},
        {"group": "acme", "name": "base", "version": "unsloth", "purl": "pkg:huggingface/acme/base"},
    ),
    "a folder in the Hub's cache": (
        {
            "base_model_name_or_path": f"/root/.cache/huggingface/hub/models--acme--base/snapshots/{COMMIT}",
            "revision": None,
        },
        {"group": "acme", "name": "base", "version": COMMIT, "purl": f"pkg:huggingface/acme/base@{COMMIT}"},
    ),
    "a bare name": ({"base_model_name_or_path": "gpt2", "revision": None}, {"name": "gpt2"}),
    "a folder": ({"base_model_name_or_path": "/data/x/llama", "revision": None}, {"name": "/data/x/llama"}),
    "a folder that looks like a repository": (
        {"base_model_name_or_path": "models/k2", "revision": None},
        {"name": "models/k2"},
    ),
    "a folder of Windows": (
        {"base_model_name_or_path": "C:\\Users\\wei\\qwen", "revision": None},
        {"name": "C:\\Users\\wei\\qwen"},
    ),
    "the card's, if the config names none": (
        {"base_model_name_or_path": None, "revision": None},
        {"group": "acme", "name": "base", "purl": "pkg:huggingface/acme/base"},
    ),
}


@pytest.mark.parametrize("case", BASES)
def test_the_base_is_identified_as_far_as_it_is_named(case: str, sql: Path, bom: Bom) -> None:
    fields, expected = BASES[case]
    change_config(sql, **fields)
    adapter, base = bom(sql)["components"]
    del base["bom-ref"]
    assert base == {"type": "machine-learning-model", **expected}
    assert adapter["pedigree"]["ancestors"] == [base]


def test_without_a_base_there_is_no_edge(tmp_path: Path, bom: Bom) -> None:
    adapter = write_adapter(tmp_path / "a", config={"base_model_name_or_path": REMOVE, "revision": REMOVE})
    document = bom(adapter)
    assert document["dependencies"] == []
    assert "pedigree" not in document["components"][0]


def test_the_base_that_is_named_tells_the_architecture_and_its_commit(
    sql: Path, tmp_path: Path, bom: Bom, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_config(sql, base_model_name_or_path="acme/base", revision=None)
    file = write_base_config(tmp_path / "base")
    with Hub() as hub:
        commit = hub.add("acme/base", {"config.json": file.read_bytes()})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        adapter, base = bom(sql, "--base", f"hf://acme/base@{commit}")["components"]
    parameters = adapter["modelCard"]["modelParameters"]
    assert (parameters["architectureFamily"], parameters["modelArchitecture"]) == ("llama", "LlamaForCausalLM")
    assert base["purl"] == f"pkg:huggingface/acme/base@{commit}"
    assert bom(sql, "--base", file)["components"][1]["purl"] == "pkg:huggingface/acme/base"


LICENSES: dict[str, Any] = {
    "license: mit": {"license": {"id": "MIT"}},
    "license: Apache-2.0": {"license": {"id": "Apache-2.0"}},
    "license: gpl-3.0": {"license": {"id": "GPL-3.0"}},
    "license: cc-by-nc-sa-4.0": {"license": {"id": "CC-BY-NC-SA-4.0"}},
    "license: mit OR apache-2.0": {"expression": "MIT OR Apache-2.0"},
    "license: gpl-2.0+": {"expression": "GPL-2.0+"},
    "license: licenseref-acme": {"expression": "LicenseRef-acme"},
    "license: llama3.1": {"license": {"name": "llama3.1"}},
    "license: other\nlicense_name: acme-1\nlicense_link: https://acme.example/a.txt": {
        "license": {"name": "acme-1", "url": "https://acme.example/a.txt"}
    },
    "license: other\nlicense_link: LICENSE": {"license": {"name": "other"}},
    "license: other\nlicense_link: 'https://acme.example/a b%'": {"license": {"name": "other"}},
    "license_name: acme-1": {"license": {"name": "acme-1"}},
    "license: unknown": None,
    "tags: [a]": None,
}


@pytest.mark.parametrize("front", LICENSES)
def test_a_licence_is_that_of_spdx_or_a_name(front: str, sql: Path, bom: Bom) -> None:
    (sql / "README.md").write_text(f"---\n{front}\n---\n")
    found = bom(sql)["components"][0].get("licenses")
    if (expected := LICENSES[front]) is None:
        assert found is None
        return
    one = found[0].get("license", found[0])
    assert one.pop("acknowledgement") == "declared"
    assert found == [expected]


def test_what_cannot_be_read_is_named_with_the_reason(sql: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["inspect", str(tmp_path / "gone"), str(sql), "--format", "cyclonedx"]) == 3
    out, err = capsys.readouterr()
    gone, found, _ = check_bom(out)["components"]
    assert gone["name"] == str(tmp_path / "gone")
    assert "there is no folder" in properties(gone)["error"][0]
    assert found["name"] == "sql"
    assert "error: " in err
    assert "there is no folder" in err


def test_a_file_that_goes_meanwhile_is_the_error_of_its_adapter(
    sql: Path, tmp_path: Path, bom: Bom, monkeypatch: pytest.MonkeyPatch
) -> None:
    def after_it_went(source: Source, revision: Revision, file: RemoteFile) -> str:
        (sql / "README.md").unlink(missing_ok=True)
        return sha256_from(source, revision, file)

    monkeypatch.setattr("lora_cli.validation.policy_check.sha256_from", after_it_went)
    broken, whole = bom(sql, write_adapter(tmp_path / "other"), code=5)["components"][:2]
    assert "was removed while it was read" in properties(broken)["error"][0]
    assert "error" not in properties(whole)


def test_it_is_written_to_a_file(sql: Path, tmp_path: Path, bom: Bom, capsys: Captured) -> None:
    assert main(["inspect", str(sql), "--format", "cyclonedx", "-o", str(tmp_path / "bom.json")]) == 0
    assert capsys.readouterr().err == f"wrote {tmp_path / 'bom.json'}\n"
    assert json.loads((tmp_path / "bom.json").read_text()) == bom(sql)


@pytest.mark.parametrize("argv", [["--diff", "a/b"], ["--engine-args", "vllm"]], ids=" ".join)
def test_what_it_does_not_contain_is_refused(argv: list[str], sql: Path, capsys: Captured) -> None:
    assert main(["inspect", str(sql), "--format", "cyclonedx", *argv]) == 2
    assert f"--format cyclonedx does not contain {argv[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["yesterday", "9" * 30, "1e9"])
def test_a_time_that_is_none_is_refused(
    text: str, sql: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    assert main(["inspect", str(sql), "--format", "cyclonedx"]) == 2
    assert "SOURCE_DATE_EPOCH" in capsys.readouterr().err


def test_hostile_names_are_text_on_one_line(tmp_path: Path, bom: Bom) -> None:
    folders = []
    for number, name in enumerate(NAMES.values()):
        fields = {"base_model_name_or_path": name, "revision": name, "task_type": name, "peft_version": name}
        more = {"auto_mapping": {"base_model_class": name}, "init_lora_weights": name, "peft_type": name}
        modules = {f"model.layers.0.{name}": (64, 64)}
        folders.append(write_adapter(tmp_path / f"{number}", modules=modules, config={**fields, **more}))
        words = ("license", "license_name", "license_link", "library_name", "pipeline_tag")
        card = dict.fromkeys(words, name) | {key: [name, name] for key in ("base_model", "datasets", "tags")}
        (folders[-1] / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    for text in texts(bom(*folders, code=1)):
        assert text.isprintable()


def test_a_text_of_any_length_is_cut(tmp_path: Path, bom: Bom) -> None:
    fields = dict.fromkeys(("base_model_name_or_path", "revision", "task_type"), "\u202ex" * 100_000)
    modules = {f"model.layers.0.m{number}": (8, 8) for number in range(200)}
    document = bom(write_adapter(tmp_path / "a", modules=modules, config=fields))
    assert max(map(len, texts(document))) <= 512 + 1 + 512  # a bom-ref is a name and a version
    found = properties(document["components"][0])
    assert (len(found["lora:target_module"]), found["lora:target_module:more"]) == (64, ["136"])


SHAPES: dict[str, dict[str, Any]] = {
    "the first PEFT": {"peft_version": REMOVE, "enable_lora": [True, False, True], "merge_weights": False},
    "AdaLoRA": {"peft_type": "ADALORA", "init_r": 12, "target_r": 8, "beta1": 0.85},
    "another method": {"peft_type": "IA3", "r": REMOVE, "lora_alpha": REMOVE, "feedforward_modules": []},
    "MLX": {"peft_type": REMOVE, "fine_tune_type": "lora", "lora_parameters": {"rank": 8}, "num_layers": 16},
    "a UNet": {"task_type": None, "auto_mapping": {"base_model_class": "UNet2DConditionModel"}},
    "a classifier": {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]},
    "Whisper": {"task_type": None, "auto_mapping": {"base_model_class": "WhisperForConditionalGeneration"}},
    "a class that is no text": {"auto_mapping": {"base_model_class": ["x"], "parent_library": 3}},
    "Unsloth": {
        "base_model_name_or_path": "unsloth/llama-3-8b-bnb-4bit",
        "revision": "unsloth",
        "auto_mapping": {"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True},
        "target_modules": "(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)" * 9,
    },
    "no base": {"base_model_name_or_path": None, "revision": None},
    "an empty base": {"base_model_name_or_path": "", "revision": ""},
    "a base in Chinese": {"base_model_name_or_path": "D:\\模型\\千问", "revision": "主"},
    "a base above": {"base_model_name_or_path": "../../Llama2-7b-chat/", "revision": None},
    "numbers as text": {"r": "8", "lora_alpha": "16", "lora_dropout": None},
    "large numbers": {"r": 1000, "lora_alpha": 10**300},
    "NaN": {"lora_alpha": float("nan")},
    "null everywhere": dict.fromkeys(("target_modules", "task_type", "peft_version", "fan_in_fan_out")),
}
"""Fields of configs as they are published, beside those of a plain adapter."""


@pytest.mark.parametrize("shape", SHAPES)
def test_a_config_as_it_is_out_there_has_a_valid_bill(shape: str, tmp_path: Path, capsys: Captured) -> None:
    folder = write_adapter(tmp_path / "a")
    change_config(folder, **SHAPES[shape])
    assert main(["inspect", str(folder), "--format", "cyclonedx"]) == 0
    assert check_bom(capsys.readouterr().out)["components"][0]["name"] == "a"


def test_a_config_without_weights_and_weights_without_a_config(tmp_path: Path, bom: Bom) -> None:
    bare, lost = write_adapter(tmp_path / "bare"), write_adapter(tmp_path / "lost")
    (bare / "adapter_model.safetensors").unlink()
    (lost / "adapter_config.json").unlink()
    first, second = bom(bare, lost, code=1)["components"][:2]
    assert properties(first)["lora:rank"] == ["4"]
    assert properties(first)["format"] == ["PEFT LoRA, no weights"]
    assert "lora:alpha" not in properties(second)
    assert properties(second)["lora:rank"] == ["4"]


@pytest.mark.slow
def test_every_case_of_the_rules_has_a_valid_bill(tmp_path: Path, capsys: Captured) -> None:
    folders = []
    quick = (case for case in all_cases("rules") if case["case"] != "the target pattern would hang")
    for number, case in enumerate(quick):
        folders.append(tmp_path / str(number))
        made(case, folders[-1])
    check_bills(folders, tmp_path, capsys)


def test_every_broken_adapter_has_a_valid_bill(tmp_path: Path, capsys: Captured) -> None:
    folders = []
    for number, change in enumerate(BREAKS.values()):
        folders.append(write_adapter(tmp_path / str(number), modules=llama_modules()))
        change(folders[-1])
    check_bills(folders, tmp_path, capsys)


def check_bills(folders: list[Path], tmp_path: Path, capsys: Captured) -> None:
    settings, items = (
        Settings(cache_dir=tmp_path / "cache"),
        tuple(AdapterRequest("", str(folder)) for folder in folders),
    )
    assert write_bom(described(items, settings), Inputs(items, ""), None, None, settings) == 1
    components = check_bom(capsys.readouterr().out)["components"][: len(folders)]
    assert [one["name"] for one in components] == [folder.name for folder in folders]
    assert not [one["name"] for one in components if "error" in properties(one)]


def described(items: tuple[AdapterRequest, ...], settings: Settings) -> list[tuple[Checked, Inspection]]:
    """As ``inspect`` has read them; no rule has looked at them."""
    checks = check_all(items, Terms(values=False, rules=(), card=True), settings)
    return [(one, inspection_of(one.adapter, card=one.card)) for one in checks if one.adapter is not None]


def change_config(folder: Path, **fields: object) -> None:
    file = folder / "adapter_config.json"
    fields = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in fields.items() if value is not REMOVE}))
