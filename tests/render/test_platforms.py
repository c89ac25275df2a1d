"""What ``export`` writes is what the platforms read, by the rules of their formats in ``platforms.json``."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from lora_cli.core.adapter_request import AdapterRequest, Selection
from lora_cli.core.lock import LockedAdapter
from lora_cli.core.reference import AdapterRef, parse
from lora_cli.core.snapshot import Blob
from lora_cli.core.text import escape_ci_commands
from lora_cli.engines import choose_engine
from lora_cli.engines.slot_sizing import Fit
from lora_cli.errors import UsageError
from lora_cli.render.platforms import PLATFORMS, Export, PlatformName, render_platform, resource_name
from tests.hostile_names import NAMES, obeyed

FORMATS: dict[str, Any] = json.loads(Path(__file__).with_name("platforms.json").read_text())
COMMIT = "9f" * 20
PLACES: dict[PlatformName, str] = {
    "kserve": "pvc://lora-cache/cache",
    "aibrix": "/lora/cache",
    "dynamo": "/lora/cache",
    "llm-d": "pvc://lora-cache/cache",
    "rayserve": "s3://acme/cache",
    "vllm-cli": "/var/cache/lora",
    "sglang-cli": "/var/cache/lora",
}
every_platform = pytest.mark.parametrize("platform", list(PLATFORMS))


def item(name: str, source: str | AdapterRef = "./sql", *, pinned: bool = False) -> AdapterRequest:
    files = {"adapter_config.json": Blob("ab" * 32, len(name))}
    ref = parse(source, is_path=lambda _: False) if isinstance(source, str) else source
    return AdapterRequest(name, ref, pinned=pinned, locked=LockedAdapter(name, str(source), "", files))


def export_of(platform: PlatformName, *items: AdapterRequest, **changes: Any) -> Export:
    export = Export(
        file="set.yaml",
        adapters=items,
        profile=choose_engine(PLATFORMS[platform].engine),
        fit=Fit(16, None, 2, 4, 0, 0, 0, lower_bound=True),
        model="acme/base-8b",
        revision=COMMIT,
        served="acme/base-8b",
        at=PLACES[platform],
    )
    return replace(export, **changes)


def documents(platform: PlatformName, text: str) -> list[Any]:
    """The parsed documents of a platform, or the values of the option that names the adapters; each is valid."""
    if platform in {"vllm-cli", "sglang-cli"}:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
        option = {"vllm-cli": "--lora-modules", "sglang-cli": "--lora-paths"}[platform]
        found = [json.loads(word) for word in words[words.index(option) + 1 :]]
    else:
        found = list(yaml.safe_load_all(text))
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": FORMATS["$defs"]}
    for one in found:
        jsonschema.Draft202012Validator({**schema, **FORMATS[platform]["schema"]}).validate(one)
    return found


def rendered(platform: PlatformName, *items: AdapterRequest, **changes: Any) -> tuple[list[Any], list[str], str]:
    """The documents, the comments and the text."""
    text = render_platform(platform, export_of(platform, *items, **changes))
    comments = [line for line in text.splitlines() if line.startswith("#")]
    return documents(platform, text), comments, text


@every_platform
def test_each_adapter_is_pinned_to_the_digest_of_the_lock(platform: PlatformName) -> None:
    items = item("sql"), item("chat-v2")
    found, comments, text = rendered(platform, *items)
    body = text.partition(comments[-1])[2] if platform != "rayserve" else text
    for one in items:
        assert one.locked is not None
        assert one.locked.digest in body
    assert any("does not check it; lora-cli cache verify does" in line for line in comments)
    assert not any("Not pinned" in line for line in comments)
    assert found


@every_platform
def test_a_published_folder_is_not_pinned_and_the_output_says_so(platform: PlatformName) -> None:
    _, comments, text = rendered(platform, item("sql"), published=True)
    assert re.search("[/:]sql", text)
    assert "snapshots/" not in text
    assert "# Not pinned: a published folder has the files of the last fetch --publish." in comments


@every_platform
def test_a_base_without_a_commit_is_not_pinned(platform: PlatformName) -> None:
    for revision in ("", "main"):
        _, comments, _ = rendered(platform, item("sql"), revision=revision)
        assert "# Not pinned: the base acme/base-8b" in comments


def test_the_limits_of_the_set_are_in_the_fields_of_each_platform() -> None:
    kserve = rendered("kserve", item("sql"))[0][0]["spec"]["model"]
    assert (kserve["uri"], kserve["name"]) == (f"hf://acme/base-8b:{COMMIT}", "acme/base-8b")
    assert [kserve["lora"][key] for key in ("maxRank", "maxAdapters", "maxCpuAdapters")] == [16, 2, 4]
    ray = rendered("rayserve", item("sql"))[0][0]["applications"][0]["args"]["llm_configs"][0]
    limits = {"max_lora_rank": 16, "max_loras": 2, "max_cpu_loras": 4}
    assert ray["engine_kwargs"] == {"revision": COMMIT, "enable_lora": True, **limits}
    words = "--enable-lora --max-lora-rank 16 --max-loras 2 --max-cpu-loras 4"
    assert f"--revision {COMMIT} {words}" in " ".join(rendered("aibrix", item("sql"))[1])
    arguments = rendered("llm-d", item("sql"))[0][0]["decode"]["containers"][0]["args"]
    assert " ".join(arguments).startswith(f"--revision {COMMIT} {words} --lora-modules")
    sglang = rendered("sglang-cli", item("sql", pinned=True))
    assert sglang[0][0]["pinned"] is True
    assert "--lora-strict-loading" in sglang[2]


@pytest.mark.parametrize("platform", ["vllm-cli", "sglang-cli"])
def test_the_engine_serves_the_base_by_the_name_that_is_asked_for(platform: PlatformName) -> None:
    assert "--served-model-name" not in rendered(platform, item("sql"))[2]
    assert "\n  --served-model-name base \\\n" in rendered(platform, item("sql"), served="base")[2]


SQL = f"hf://acme/sql@{COMMIT}"
DIGEST = "sha256:" + "cd" * 32


@pytest.mark.parametrize(
    ("platform", "source", "location", "pinned"),
    [
        ("kserve", SQL, f"hf://acme/sql:{COMMIT}", True),
        ("kserve", "s3://acme/loras/sql", "s3://acme/loras/sql", False),
        ("aibrix", SQL, "huggingface://acme/sql", False),
        ("aibrix", "s3://acme/loras/sql", "s3://acme/loras/sql/", False),
        ("aibrix", "gs://acme/loras/sql", "gcs://acme/loras/sql/", False),
        ("aibrix", "tos://acme/loras/sql", "tos://acme/loras/sql/", False),
        ("dynamo", SQL, f"hf://acme/sql@{COMMIT}", True),
        ("dynamo", "s3://acme/loras/sql", "s3://acme/loras/sql", False),
        ("llm-d", f"oci://registry.example/loras/sql:v2@{DIGEST}", f"registry.example/loras/sql@{DIGEST}", True),
        ("llm-d", f"oci://localhost:5000/sql@{DIGEST}", f"localhost:5000/sql@{DIGEST}", True),
        ("rayserve", "s3://acme/loras/sql", "s3://acme/loras", False),
        ("rayserve", "gs://acme/loras/sql", "gs://acme/loras", False),
    ],
)
def test_a_platform_reads_the_origin_at_the_locked_revision_where_it_can(
    platform: PlatformName, source: str, location: str, pinned: bool
) -> None:
    found, comments, _ = rendered(platform, item("sql", source), from_origin=True)
    assert f'"{location}"' in json.dumps(found)
    said = "# Pinned to the locked revision, not to the digest: sql" in comments
    title = PLATFORMS[platform].title.partition(" ")[0]
    assert (said, f"# Not pinned: {title} reads the newest version of sql" in comments) == (pinned, not pinned)


@pytest.mark.parametrize(
    ("platform", "source"),
    [
        ("kserve", f"hf://acme/sql/checkpoint-5@{COMMIT}"),
        ("kserve", f"oci://registry.example/loras/sql@{DIGEST}"),
        ("kserve", "./sql"),
        ("kserve", "s3://acme/100%"),
        ("aibrix", "https://example.com/sql"),
        ("dynamo", f"hf://acme/sql/checkpoint-5@{COMMIT}"),
        ("llm-d", SQL),
        ("rayserve", SQL),
        ("vllm-cli", SQL),
        ("sglang-cli", SQL),
    ],
)
def test_other_sources_are_folders_and_the_output_says_so(platform: PlatformName, source: str) -> None:
    one = item("sql", source)
    _, comments, text = rendered(platform, one, from_origin=True)
    assert one.locked is not None
    assert f"snapshots/sha256/{one.locked.digest}" in text or platform == "rayserve"
    assert any(line.endswith("cannot: sql") for line in comments)


@pytest.mark.parametrize("platform", ["kserve", "aibrix", "dynamo", "rayserve"])
def test_the_latest_checkpoint_is_a_folder_of_the_cache_because_no_lock_names_it(platform: PlatformName) -> None:
    source = "s3://acme/loras/run" if platform == "rayserve" else SQL
    one = replace(item("sql", source), selection=Selection(latest=True))
    _, comments, text = rendered(platform, one, from_origin=True)
    assert one.locked is not None
    assert f"snapshots/sha256/{one.locked.digest}" in text or platform == "rayserve"
    assert any(line.endswith("cannot: sql") for line in comments)


def test_the_pod_of_llm_d_is_one_that_kubernetes_accepts() -> None:
    items = item("sql"), item("chat", f"oci://registry.example/loras/chat@{DIGEST}/v2")
    found, comments, _ = rendered("llm-d", *items, from_origin=True)
    decode = found[0]["decode"]
    container = {key: decode["containers"][0][key] for key in ("name", "image", "args", "volumeMounts")}
    spec = {"containers": [container], "volumes": decode["volumes"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "decode"}, "spec": spec}
    kubernetes_validate.validate(pod, "1.33", strict=True)
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert mounts == {"lora": "/lora", "lora-0": "/lora-images/chat"}
    paths = [json.loads(word)["path"] for word in container["args"][-2:]]
    assert paths[0].startswith("/lora/snapshots/sha256/")
    assert paths[1] == "/lora-images/chat/models/v2"
    assert any("/models, as lora-cli push --as image writes them" in line for line in comments)


@pytest.mark.parametrize(
    ("name", "resource"),
    [
        ("sql-v2", "sql-v2"),
        ("SQL_v2.1", "sql-v2-1"),
        ("4bit", "lora-4bit"),
        ("no", "no"),
        ("a--", "a"),
        ("x" * 63, "x" * 63),
        ("x" * 64, f"{'x' * 54}-{resource_name('x' * 64)[-8:]}"),
        ("x" * 70, f"{'x' * 54}-{resource_name('x' * 70)[-8:]}"),
    ],
)
def test_a_name_that_kubernetes_refuses_becomes_another_one(name: str, resource: str) -> None:
    assert resource_name(name) == resource
    for platform in ("kserve", "aibrix", "dynamo"):
        found, comments, text = rendered(platform, item(name))
        assert ("lora-cli/name" in text) == (name != resource)
        assert (name in text) or name == resource
        names = [line for line in comments if "name of the resource" in line]
        assert bool(names) == (name != resource and platform != "dynamo")
        if platform == "dynamo":
            assert found[0]["spec"]["modelName"] == name


@pytest.mark.parametrize("platform", ["kserve", "aibrix", "dynamo"])
def test_two_adapters_cannot_be_one_resource(platform: PlatformName) -> None:
    with pytest.raises(UsageError, match=r"sql\.v2 and sql_v2 would both be sql-v2"):
        rendered(platform, item("sql.v2"), item("sql_v2"))


@every_platform
def test_words_of_yaml_stay_names(platform: PlatformName) -> None:
    for name in ("no", "null", "1e5", "0x10", "y"):
        found, _, text = rendered(platform, item(name))
        assert re.search(rf"\b{name}\b|lora-", text)
        assert found


@every_platform
@pytest.mark.parametrize("name", ["1e5", "1E5", "12e-3", "0o17", "7e+2"])
def test_what_kubernetes_reads_as_a_number_is_quoted(platform: PlatformName, name: str) -> None:
    served = name if platform in {"kserve", "aibrix", "dynamo", "llm-d"} and "+" not in name else "base"
    text = rendered(platform, item("7e2"), served=served)[2]
    written = [line for line in text.splitlines() if not line.startswith("#")]
    assert not re.search(rf"[:-] ({re.escape(name)}|7e2)$", "\n".join(written), re.MULTILINE)


@every_platform
def test_an_adapter_is_not_called_like_the_base(platform: PlatformName) -> None:
    with pytest.raises(UsageError, match="sql has the name of the base"):
        rendered(platform, item("sql"), served="sql")


def test_a_name_in_requests_is_not_that_of_the_base_where_the_resource_has_another_one() -> None:
    with pytest.raises(UsageError, match="SQL_v2 has the name of the base"):
        rendered("dynamo", item("SQL_v2"), served="SQL_v2")
    assert rendered("dynamo", item("SQL_v2"), served="sql-v2")[0][0]["spec"]["baseModelName"] == "sql-v2"


def test_a_base_without_a_letter_of_ours_has_a_resource_too() -> None:
    (found,), _, _ = rendered("kserve", item("sql"), served="模型")
    assert re.fullmatch("lora-[0-9a-f]{8}", found["metadata"]["name"])


@every_platform
@pytest.mark.parametrize("hostile", NAMES.values(), ids=NAMES)
def test_no_reference_and_no_file_name_adds_a_line_or_a_field(platform: PlatformName, hostile: str) -> None:
    sources = [AdapterRef("s3", f"acme/{hostile}"), AdapterRef("hf", "acme/sql", hostile, COMMIT)]
    plain = rendered(platform, item("sql", "./sql"), item("chat", "./chat"))[0]
    items = item("sql", sources[0]), item("chat", sources[1])
    found, _, text = rendered(platform, *items, from_origin=True, file=hostile)
    assert found == plain
    assert obeyed(escape_ci_commands(text)) == []


@every_platform
@pytest.mark.parametrize(
    "at", ["relative", "ftp://x/y", "pvc://x/$(id)", "s3://x/a b", "/a\nb", "gs:/x", "pvc://", "s3:///", ""]
)
def test_a_place_that_the_platform_cannot_read_is_refused(platform: PlatformName, at: str) -> None:
    with pytest.raises(UsageError) as refused:
        rendered(platform, item("sql"), at=at)
    assert f"{PLATFORMS[platform].title} reads adapters from" in refused.value.message
    assert refused.value.hint.startswith("--at ")


@pytest.mark.parametrize("platform", ["kserve", "aibrix", "dynamo", "llm-d", "rayserve"])
def test_a_place_does_not_leave_its_volume(platform: PlatformName) -> None:
    with pytest.raises(UsageError, match="reads adapters from"):
        rendered(platform, item("sql"), at=f"{PLACES[platform]}/../other")


def test_a_folder_in_a_bucket_ends_with_a_slash_for_aibrix() -> None:
    for at in ("s3://acme/cache", "gcs://acme/cache/"):
        assert rendered("aibrix", item("sql"), at=at)[0][0]["spec"]["artifactURL"].startswith(f"{at.rstrip('/')}/snap")


def test_only_sglang_pins_an_adapter_to_its_slot() -> None:
    assert "pinned" not in rendered("vllm-cli", item("sql", pinned=True))[0][0]


def test_the_name_of_a_model_in_ray_has_no_colon() -> None:
    _, comments, _ = rendered("rayserve", item("sql"), served="acme/base:8b")
    assert any(line.startswith("# sql is the model acme/base-8b:") for line in comments)


def test_a_comment_names_many_adapters_and_is_bounded() -> None:
    items = [item(f"a{number}", f"s3://acme/a{number}") for number in range(30)]
    (line,) = [line for line in rendered("kserve", *items, from_origin=True)[1] if "newest version" in line]
    assert line.endswith(", a19 and 10 more")


def test_ray_reads_one_folder() -> None:
    items = item("sql", "s3://acme/loras/sql"), item("chat", "s3://acme/other/chat")
    with pytest.raises(UsageError, match="all adapters of a base from one folder"):
        rendered("rayserve", *items, from_origin=True)
    found, comments, _ = rendered("rayserve", items[0], from_origin=True)
    assert "# sql is the model acme/base-8b:sql" in comments
    assert found[0]["applications"][0]["name"] == "base-8b"


def test_ray_loads_a_base_that_has_an_address() -> None:
    with pytest.raises(UsageError, match="needs a base that it can load"):
        rendered("rayserve", item("sql"), model="", served="base")


def test_a_label_of_aibrix_is_one() -> None:
    with pytest.raises(UsageError, match="cannot be the value of a label"):
        rendered("aibrix", item("sql"), served="acme/base:8b")


def test_aibrix_routes_by_name_so_an_adapter_has_another_one_than_its_base() -> None:
    with pytest.raises(UsageError, match="base-8b is an adapter and the base"):
        rendered("aibrix", item("base-8b"), served="acme/base-8b")
