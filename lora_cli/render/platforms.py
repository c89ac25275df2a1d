"""An adapter set as serving platforms read it: Kubernetes resources, Helm values, a Ray Serve config, a command line.

``tests/render/platforms.json`` has the rules of each format, with the release and the files that they were read from.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lora_cli.core.adapter_request import AdapterRequest
from lora_cli.core.reference import AdapterRef
from lora_cli.core.text import names, safe
from lora_cli.engines.profile import Flags, Profile
from lora_cli.engines.slot_sizing import Fit
from lora_cli.errors import UsageError
from lora_cli.validation.engine_args import command_lines, for_shell, launch_words, options_of

PlatformName = Literal["kserve", "aibrix", "dynamo", "llm-d", "rayserve", "vllm-cli", "sglang-cli"]
Document = dict[str, Any]

SNAPSHOTS = "snapshots/sha256"
"""The folder of a cache with its snapshots, by digest."""

MOUNT, IMAGES = "/lora", "/lora-images"
"""Where the containers of llm-d have the volume, and the images."""

_PLAIN = re.compile(r"[A-Za-z0-9._~/:@+=-]+")
"""Characters of addresses that no platform quotes, decodes or cuts."""

_LABEL_VALUE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_MOST = 20
"""Adapters that a comment names."""

_LONGEST_NAME = 63
"""Of a resource in Kubernetes that other names are made from."""


@dataclass(frozen=True, slots=True)
class Export:
    """The locked adapters of the manifest ``file``, their base, and the limits of the engine that serves them.

    ``at`` is the place of the cache, or with ``published`` of the published folders. ``served`` is the name of the base
    in requests. With ``from_origin`` the platform reads the sources of adapters itself where it can; it cannot read
    those that are ``mirrored``: an endpoint of the manifest has them.
    """

    file: str
    adapters: Sequence[AdapterRequest]
    profile: Profile
    fit: Fit
    model: str
    revision: str
    served: str
    at: str
    published: bool = False
    from_origin: bool = False
    mirrored: frozenset[str] = frozenset()

    @property
    def flags(self) -> Flags:
        """The names of the engine's options."""
        assert self.profile.engine.slots is not None
        return self.profile.engine.slots.flags

    @property
    def launch(self) -> tuple[str, ...]:
        """The engine's command before the options of LoRA."""
        return launch_words(self.flags, self.model, self.revision)


@dataclass(frozen=True, slots=True)
class ExportedAdapter:
    """An adapter, its ``name`` in the platform, and the folder or address that the platform reads.

    ``image`` is an image that has the folder. ``origin``: ``pinned`` or ``newest`` where that is the adapter's source.
    """

    item: AdapterRequest
    name: str
    location: str
    image: str = ""
    origin: Literal["", "pinned", "newest"] = ""

    @property
    def digest(self) -> str:
        """The digest of its files in the lock."""
        assert self.item.locked is not None
        return self.item.locked.digest

    @property
    def annotations(self) -> dict[str, str]:
        """Its digest, and its name in the manifest where that is another one."""
        renamed = {"lora-cli/name": self.item.name} if self.name != self.item.name else {}
        return {"lora-cli/snapshot": self.digest, **renamed}


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform, and how it reads adapters.

    ``places`` maps the beginnings of ``--at`` to the form of a folder there; ``at`` is its default. ``origins`` maps
    the schemes of sources that the platform reads to their form, which is pinned if it has a revision. ``renames``:
    requests name the resource. ``started``: the engine runs already when adapters are loaded. ``hub``: its base is a
    repository of the Hub. ``here``: a shell of this machine starts the engine, by default with this machine's cache.
    ``limits`` are what else it does not check.
    """

    title: str
    write: Callable[[Export, Sequence[ExportedAdapter]], str | Sequence[Document]]
    places: Mapping[str, str]
    at: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)
    engine: str = "vllm"
    resources: bool = False
    renames: bool = False
    started: bool = False
    hub: bool = False
    here: bool = False
    limits: tuple[str, ...] = ()


def render_platform(name: PlatformName, export: Export) -> str:
    """The file of a platform, with comments that say what it does not pin.

    Raises:
        UsageError: a name or an address that the platform cannot read.
    """
    platform = PLATFORMS[name]
    located = _exported(platform, export)
    written = platform.write(export, located)
    if not isinstance(written, str):
        written = _to_yaml(*written)
    title = f"{platform.title}: {export.file} and its lock, by lora-cli export {name}"
    lines = (title, *_pins(platform, export, located), *platform.limits)
    return "".join(f"# {safe(line)}\n" for line in lines) + written


_NUMBER = re.compile(r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|0o[0-7]+)$")


def _to_yaml(*documents: Document) -> str:
    """The documents, with quotes also around what is a number in YAML 1.2 alone: ``1e3`` is a name to PyYAML."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Has one rule more."""

    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))
    text: str = yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, width=10_000)
    return text


def _pins(platform: Platform, export: Export, located: Sequence[ExportedAdapter]) -> Iterator[str]:
    """What pins the adapters, and what does not."""
    title = platform.title.partition(" ")[0]
    folders = [one.item.name for one in located if not one.origin]
    if folders and export.published:
        yield "Not pinned: a published folder has the files of the last fetch --publish."
    elif folders:
        yield f"Folders are named by the digest of their files. {title} does not check it; lora-cli cache verify does."
    if export.from_origin and folders:
        yield f"Not read from the origin, because {title} cannot: {names(folders, _MOST)}"
    if pinned := [one.item.name for one in located if one.origin == "pinned"]:
        yield f"Pinned to the locked revision, not to the digest: {names(pinned, _MOST)}"
    if any(one.image for one in located):
        yield "Images have the adapter in /models, as lora-cli push --as image writes them."
    if newest := [one.item.name for one in located if one.origin == "newest"]:
        yield f"Not pinned: {title} reads the newest version of {names(newest, _MOST)}"
    if export.model and not re.fullmatch("[0-9a-f]{40}", export.revision):
        yield f"Not pinned: the base {export.model}"
    renamed = [f"{one.name} for {one.item.name}" for one in located if one.name != one.item.name]
    if platform.renames and renamed:
        yield f"Requests use the name of the resource: {names(renamed, _MOST)}"
    if platform.started:
        flags = (word for option in options_of(export.flags, export.fit, 1, ()) for word in option)
        yield f"The engine needs: {for_shell([*export.launch, *flags])}"


def _exported(platform: Platform, export: Export) -> list[ExportedAdapter]:
    found: dict[str, ExportedAdapter] = {}
    for item in export.adapters:
        name = resource_name(item.name) if platform.resources else item.name
        if name in found:
            both = f"{found[name].item.name} and {item.name}"
            raise UsageError(f"{both} would both be {name} in Kubernetes", hint="rename one of them in the manifest")
        if export.served == (name if platform.renames else item.name):
            raise UsageError(f"{item.name} has the name of the base", hint="--served-model-name NAME")
        found[name] = _at_origin(platform, export, item, name) or ExportedAdapter(
            item, name, _folder(platform, export, item)
        )
    return list(found.values())


def _at_origin(platform: Platform, export: Export, item: AdapterRequest, name: str) -> ExportedAdapter | None:
    """The adapter at its source, if that is asked for and the platform reads it."""
    ref = item.source
    if not export.from_origin or not isinstance(ref, AdapterRef) or ref.scheme not in platform.origins:
        return None
    if item.name in export.mirrored or item.selection.latest:  # the folder of the latest checkpoint is not in the lock
        return None
    form = platform.origins[ref.scheme]
    pinned: Literal["pinned", "newest"] = "pinned" if "{revision}" in form else "newest"
    if not _PLAIN.fullmatch(ref.location + ref.subfolder) or (ref.subfolder and ref.scheme != "oci"):
        return None
    if ref.scheme == "oci":
        repository = re.sub(r":[^/]*$", "", ref.location)
        folder = f"{IMAGES}/{item.name}/models/{ref.subfolder}".rstrip("/")
        return ExportedAdapter(item, name, folder, form.format(location=repository, revision=ref.revision), pinned)
    return ExportedAdapter(
        item, name, form.format(location=ref.location.rstrip("/"), revision=ref.revision), origin=pinned
    )


def _folder(platform: Platform, export: Export, item: AdapterRequest) -> str:
    """The adapter's folder in the cache, or the published one."""
    assert item.locked is not None
    at = export.at.rstrip("/")
    prefix = next((prefix for prefix in platform.places if at.startswith(prefix)), "")
    # Only a shell quotes what it reads.
    is_plain = at.isprintable() if platform.here else _PLAIN.fullmatch(at) and ".." not in at.split("/")
    if not prefix or not is_plain:
        known = " or ".join(f"{prefix}…" for prefix in platform.places)
        given = f"--at {safe(export.at)}" if export.at else "--at is needed"
        hint = f"--at {next(iter(platform.places))}…, the cache or its copy"
        raise UsageError(f"{given}: {platform.title} reads adapters from {known}", hint=hint)
    folder = item.name if export.published else f"{SNAPSHOTS}/{item.locked.digest}"
    form = platform.places[prefix]
    return form.format(folder if form.startswith(MOUNT) else f"{at}/{folder}")


def resource_name(name: str) -> str:
    """The name of an adapter as that of a resource in Kubernetes: a DNS label that begins with a letter (RFC 1035)."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    label = label if label[:1].isalpha() else f"lora-{label or digest}"
    return label if len(label) <= _LONGEST_NAME else f"{label[: _LONGEST_NAME - 9].rstrip('-')}-{digest}"


def _modules(export: Export, located: Sequence[ExportedAdapter]) -> Iterator[str]:
    """The adapters as values of the engine's option, in JSON."""
    name, path = export.flags.keys
    for one in located:
        pinned = {"pinned": True} if one.item.pinned and export.flags.pins else {}
        yield json.dumps({name: one.name, path: one.location, **pinned})


def _command(export: Export, located: Sequence[ExportedAdapter]) -> str:
    served = (("--served-model-name", export.served),) if export.served != export.model else ()
    adapters = (export.flags.adapters, *_modules(export, located))
    options = (*served, *options_of(export.flags, export.fit, 1, ()), adapters)
    return "".join(f"{line}\n" for line in command_lines(export.flags, export.launch, options))


def _kserve(export: Export, located: Sequence[ExportedAdapter]) -> Sequence[Document]:
    lora = {
        "adapters": [{"name": one.name, "uri": one.location} for one in located],
        "maxRank": export.fit.max_lora_rank,
        "maxAdapters": export.fit.max_loras,
        "maxCpuAdapters": export.fit.max_cpu_loras,
    }
    uri = f"hf://{export.model}:{export.revision}" if export.revision else f"hf://{export.model}"
    annotations = {f"{one.name}.{key}": value for one in located for key, value in one.annotations.items()}
    return [
        {
            "apiVersion": "serving.kserve.io/v1alpha2",
            "kind": "LLMInferenceService",
            "metadata": {"name": resource_name(export.served.rpartition("/")[2]), "annotations": annotations},
            "spec": {"model": {"uri": uri, "name": export.served, "lora": lora}},
        }
    ]


def _aibrix(export: Export, located: Sequence[ExportedAdapter]) -> Sequence[Document]:
    base = export.served.rpartition("/")[2]
    if not _LABEL_VALUE.fullmatch(base):
        raise UsageError(f"{safe(base)} cannot be the value of a label", hint="--served-model-name NAME")
    if any(one.name == base for one in located):
        raise UsageError(f"{base} is an adapter and the base", hint="rename the adapter, or --served-model-name NAME")
    pods = {"model.aibrix.ai/name": base, "adapter.model.aibrix.ai/enabled": "true"}
    return [
        {
            "apiVersion": "model.aibrix.ai/v1alpha1",
            "kind": "ModelAdapter",
            "metadata": {
                "name": one.name,
                "labels": {"model.aibrix.ai/name": one.name, "model.aibrix.ai/port": "8000"},
                "annotations": one.annotations,
            },
            "spec": {"baseModel": base, "podSelector": {"matchLabels": dict(pods)}, "artifactURL": one.location},
        }
        for one in located
    ]


def _dynamo(export: Export, located: Sequence[ExportedAdapter]) -> Sequence[Document]:
    return [
        {
            "apiVersion": "nvidia.com/v1alpha1",
            "kind": "DynamoModel",
            "metadata": {"name": one.name, "annotations": one.annotations},
            "spec": {
                "modelName": one.item.name,
                "baseModelName": export.served,
                "modelType": "lora",
                "source": {"uri": one.location},
            },
        }
        for one in located
    ]


def _llm_d(export: Export, located: Sequence[ExportedAdapter]) -> Sequence[Document]:
    claim, _, folder = export.at.removeprefix("pvc://").rstrip("/").partition("/")
    volumes: list[Document] = []
    mounts: list[Document] = []
    if any(not one.image for one in located):
        volumes.append({"name": "lora", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        sub_path = {"subPath": folder} if folder else {}
        mounts.append({"name": "lora", "mountPath": MOUNT, "readOnly": True, **sub_path})
    for number, one in enumerate(one for one in located if one.image):
        volumes.append({"name": f"lora-{number}", "image": {"reference": one.image}})
        mounts.append({"name": f"lora-{number}", "mountPath": f"{IMAGES}/{one.item.name}", "readOnly": True})
    words = [word for option in options_of(export.flags, export.fit, 1, ()) for word in option]
    revision = [export.flags.revision, export.revision] if export.revision else []
    version = export.profile.requested or export.profile.version
    container = {
        "name": "vllm",
        "image": f"vllm/vllm-openai:v{version}{'' if version.count('.') > 1 else '.0'}",
        "modelCommand": "vllmServe",
        "args": [*revision, *words, export.flags.adapters, *_modules(export, located)],
        "mountModelVolume": True,
        "volumeMounts": mounts,
    }
    return [
        {
            "modelArtifacts": {"name": export.served, "uri": f"hf://{export.model}"},
            "decode": {"containers": [container], "volumes": volumes},
        }
    ]


def _rayserve(export: Export, located: Sequence[ExportedAdapter]) -> str:
    parents = {one.location.rpartition("/")[0] for one in located}
    if len(parents) > 1:
        raise UsageError("Ray Serve reads all adapters of a base from one folder", hint="--at s3://BUCKET/CACHE")
    if not export.model:
        raise UsageError("Ray Serve needs a base that it can load", hint="--base ORG/NAME[@COMMIT], or a folder")
    model_id = export.served.replace(":", "-")
    revision = {"revision": export.revision} if export.revision else {}
    config = {
        "model_loading_config": {"model_id": model_id, "model_source": export.model},
        "lora_config": {
            "dynamic_lora_loading_path": parents.pop(),
            "max_num_adapters_per_replica": export.fit.max_cpu_loras,
        },
        "engine_kwargs": {
            **revision,
            "enable_lora": True,
            "max_lora_rank": export.fit.max_lora_rank,
            "max_loras": export.fit.max_loras,
            "max_cpu_loras": export.fit.max_cpu_loras,
        },
    }
    application = {
        "name": resource_name(model_id.rpartition("/")[2]),
        "route_prefix": "/",
        "import_path": "ray.serve.llm:build_openai_app",
        "args": {"llm_configs": [config]},
    }
    asked = (f"{one.item.name} is the model {model_id}:{one.location.rpartition('/')[2]}" for one in located)
    return "".join(f"# {safe(line)}\n" for line in asked) + _to_yaml({"applications": [application]})


PLATFORMS: Mapping[PlatformName, Platform] = {
    "kserve": Platform(
        title="KServe 0.20",
        write=_kserve,
        places={"pvc://": "{}", "s3://": "{}"},
        at="pvc://lora-cache/cache",
        origins={"hf": "hf://{location}:{revision}", "s3": "s3://{location}"},
        resources=True,
        renames=True,
        hub=True,
    ),
    "aibrix": Platform(
        title="AIBrix 0.7",
        write=_aibrix,
        places={"/": "{}", "s3://": "{}/", "gcs://": "{}/"},
        at="/lora/cache",
        origins={
            "hf": "huggingface://{location}",
            "s3": "s3://{location}/",
            "gs": "gcs://{location}/",
            "tos": "tos://{location}/",
        },
        resources=True,
        renames=True,
        started=True,
        limits=(
            "AIBrix does not load an adapter again when its artifactURL changes: delete the ModelAdapter first.",
            "Paths are for pods without the container aibrix-runtime, s3:// and gcs:// for pods with it.",
        ),
    ),
    "dynamo": Platform(
        title="Dynamo 1.6",
        write=_dynamo,
        places={"/": "file://{}", "s3://": "{}"},
        at="/lora/cache",
        origins={"hf": "hf://{location}@{revision}", "s3": "s3://{location}"},
        resources=True,
        started=True,
        limits=("baseModelName is the modelRef of the workers. Dynamo checks only that an adapter's files exist.",),
    ),
    "llm-d": Platform(
        title="llm-d-modelservice 0.4.12",
        write=_llm_d,
        places={"pvc://": MOUNT + "/{}"},
        at="pvc://lora-cache/cache",
        origins={"oci": "{location}@{revision}"},
        hub=True,
        limits=("Lists of Helm replace those of other values. modelArtifacts.size must hold the base.",),
    ),
    "rayserve": Platform(
        title="Ray 2.60",
        write=_rayserve,
        places={"s3://": "{}", "gs://": "{}", "abfss://": "{}", "azure://": "{}"},
        origins={"s3": "s3://{location}", "gs": "gs://{location}"},
    ),
    "vllm-cli": Platform(title="vLLM", write=_command, places={"/": "{}"}, here=True),
    "sglang-cli": Platform(title="SGLang", write=_command, places={"/": "{}"}, engine="sglang", here=True),
}
"""The platforms by the name in the command. Versions are the releases whose formats were read."""
