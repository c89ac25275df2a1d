"""CycloneDX 1.6 (ECMA-424): a bill of materials of adapters, their files and the base models they were trained on.

It has no path, time or random number of the machine that writes it: the same bytes give the same document everywhere.
https://cyclonedx.org/docs/1.6/json/
"""

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from lora_cli import __version__
from lora_cli.core.addresses import COMMIT, hub_words, is_repository
from lora_cli.core.base_model import BaseModel
from lora_cli.core.companions import CARD_FILE, Card
from lora_cli.core.inspection import Inspection
from lora_cli.core.lora_config import LoraConfig
from lora_cli.core.reference import AdapterRef, cached_repository
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.core.text import cut, safe
from lora_cli.render.json import to_json
from lora_cli.validation import Checked

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
HUB = "https://huggingface.co"
MODEL = "machine-learning-model"
NAMESPACE = "lora-cli"
"""The namespace of properties: https://github.com/CycloneDX/cyclonedx-property-taxonomy"""

LONGEST = 512
"""Characters of a text out of an adapter; a longer one is cut in its middle."""
MOST = 64
"""Properties of one name; the rest is counted."""

Object = dict[str, Any]
_LINK = re.compile(r"https://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._~/+-]*)?", re.ASCII)
_SAFE_IN_URL = "/:@!$&'()*+,;=~"


@dataclass(frozen=True, slots=True)
class Material:
    """One adapter of the bill.

    ``name`` is what the manifest calls it, "" without a manifest. ``files`` have a sha256 where that is known, and
    ``snapshot`` is their digest, "" if it is not known. ``endpoint`` is the address of its origin.
    """

    checked: Checked
    inspection: Inspection | None
    name: str = ""
    files: tuple[RemoteFile, ...] = ()
    snapshot: str = ""
    endpoint: str = ""


def render_bom(
    materials: Iterable[Material],
    base: BaseModel | None = None,
    served_on: AdapterRef | None = None,
    timestamp: str = "",
) -> str:
    """The bill of ``materials`` in their order, then of the base models that their configs name, each once.

    ``base`` and ``served_on`` are the base model that the user named: its config, and the reference to it.
    ``timestamp`` is when it is made (``2026-11-29T00:00:00Z``), "" to leave that out.
    """
    refs = _Refs()
    adapters: list[Object] = []
    bases: dict[str, Object] = {}
    edges: list[Object] = []
    for one in materials:
        named = _base_component(one, served_on)
        adapters.append(refs.add(_adapter(one, base, named)))
        if named:
            key = to_json(named)
            bases[key] = bases.get(key) or refs.add(named)
            edges.append({"ref": adapters[-1]["bom-ref"], "dependsOn": [bases[key]["bom-ref"]]})
    document: Object = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": "",
        "version": 1,
        "metadata": {
            **({"timestamp": timestamp} if timestamp else {}),
            "tools": {"components": [{"type": "application", "name": "lora-cli", "version": __version__}]},
        },
        "components": [*adapters, *bases.values()],
        "dependencies": edges,
    }
    document["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, f"{SCHEMA}#{to_json(document)}").urn
    return to_json(document)


class _Refs:
    """Gives each component a ``bom-ref`` of its own: its purl, else its name and version, numbered where taken."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def add(self, component: Object) -> Object:
        """``component`` with its ``bom-ref``."""
        ref = first = component.get("purl") or "@".join((component["name"], *filter(None, [component.get("version")])))
        number = self._taken.get(first, 0)
        while ref in self._taken:
            number += 1
            ref = f"{first}#{number}"
        self._taken |= {first: max(number, 1), ref: 1}
        return {"type": component["type"], "bom-ref": ref, **component}


def _adapter(one: Material, base: BaseModel | None, named: Object) -> Object:
    """The component of one adapter; of one that could not be read, its name and the reason."""
    checked, inspection = one.checked, one.inspection
    revision = checked.revision
    if checked.error is not None or revision is None or inspection is None:
        error = checked.error.message if checked.error is not None else "it could not be read"
        return {"type": MODEL, "name": _text(checked.name), "properties": _properties([("error", error)])}
    config = checked.adapter.config if checked.adapter is not None else None
    return _filled(
        {
            "type": MODEL,
            **_identity(one, revision),
            "licenses": _licenses(inspection.card),
            "pedigree": {"ancestors": [named]} if named else {},
            "externalReferences": list(_references(one, revision)),
            "components": [_file(file) for file in one.files],
            "modelCard": _model_card(inspection, config, base),
            "properties": _properties(_facts(one, inspection, config)),
        }
    )


def _identity(one: Material, revision: Revision) -> Object:
    """Name, version and purl; a local folder has no version but its digest, and no address."""
    ref = revision.ref
    if ref.scheme == "hf":
        owner, _, name = ref.location.rpartition("/")
        return {
            "supplier": {"name": owner, "url": [f"{one.endpoint}/{quote(owner)}"]} if owner else {},
            "group": owner,
            "name": _text(f"{name}/{ref.subfolder}" if ref.subfolder else name),
            "version": revision.id.lower(),
            "purl": _hub_purl(ref.location, revision.id, one.endpoint, ref.subfolder),
        }
    if ref.scheme == "oci":
        return {"name": _text(ref.name), "version": revision.id, "purl": _oci_purl(ref.location, revision.id)}
    digest = f"sha256:{one.snapshot}" if one.snapshot else ""
    return {"name": _text(ref.name), "version": digest if ref.scheme == "file" else _text(revision.id)}


def _hub_purl(repository: str, commit: str, endpoint: str = HUB, subfolder: str = "") -> str:
    """The package URL of a repository on the Hub (the type ``huggingface`` of the purl specification)."""
    version = f"@{commit.lower()}" if COMMIT.fullmatch(commit) else ""
    at = f"?repository_url={quote(endpoint, safe='/:')}" if endpoint not in {"", HUB} else ""
    return f"pkg:huggingface/{quote(repository)}{version}{at}" + (f"#{quote(subfolder)}" if subfolder else "")


def _oci_purl(location: str, digest: str) -> str:
    """The package URL of an artifact (the type ``oci`` of the purl specification)."""
    repository, _, tag = location.rpartition("/")[2].partition(":")
    at = f"?repository_url={quote(location.removesuffix(f':{tag}'), safe='/:')}" + (f"&tag={tag}" if tag else "")
    return f"pkg:oci/{quote(repository)}@{digest}{at}"


def _base_component(one: Material, served_on: AdapterRef | None) -> Object:
    """The base model that the config names, else the only one of the model card; nothing if none is named.

    Its revision is that of the config, else the commit of the same repository that it is to be served on.
    """
    inspection = one.inspection
    if inspection is None or one.checked.error is not None:
        return {}
    named = inspection.base
    if not named and inspection.card is not None and len(inspection.card.base_model) == 1:
        named = inspection.card.base_model[0]
    if not named:
        return {}
    revision = inspection.base_revision
    if (cached := cached_repository(named)) is not None:
        named, revision = cached
    if not (is_repository(named) and hub_words(named) and "@" not in named):
        return _filled({"type": MODEL, "name": _text(named), "version": _text(revision)})
    if not COMMIT.fullmatch(revision) and served_on is not None and served_on.pinned and served_on.location == named:
        revision = served_on.revision or ""
    version = revision.lower() if COMMIT.fullmatch(revision) else _text(revision)
    owner, _, name = named.partition("/")
    identity = {"group": owner, "name": name, "version": version, "purl": _hub_purl(named, revision)}
    return _filled({"type": MODEL, **identity})


def _licenses(card: Card | None) -> list[Object]:
    """The licence that the model card declares: by its SPDX identifier or expression, else by its name."""
    if card is None or (card.license in {"", "unknown"} and not card.license_name):
        return []
    declared = {"acknowledgement": "declared"}
    try:
        spdx = canonicalize_license_expression(card.license)
    except InvalidLicenseExpression:
        link = {"url": card.license_link} if _LINK.fullmatch(card.license_link) else {}
        return [{"license": {"name": _text(card.license_name or card.license), **declared, **link}}]
    if re.fullmatch(r"(?!LicenseRef-)[A-Za-z0-9.-]+", spdx):
        return [{"license": {"id": spdx, **declared}}]
    return [{"expression": spdx, **declared}]


def _references(one: Material, revision: Revision) -> Iterator[Object]:
    """Where the files are, and the model card; not for a folder of this machine."""
    ref = revision.ref
    if ref.scheme == "hf":
        folder = f"/{quote(ref.subfolder)}" if ref.subfolder else ""
        page = f"{one.endpoint}/{quote(ref.location)}"
        yield {"type": "distribution", "url": f"{page}/tree/{revision.id}{folder}"}
        if revision.file(CARD_FILE) is not None:
            yield {"type": "model-card", "url": f"{page}/blob/{revision.id}{folder}/{CARD_FILE}"}
    elif ref.scheme != "file":
        is_web = ref.scheme in {"https", "http"}
        yield {"type": "distribution", "url": quote(str(ref), safe=_SAFE_IN_URL + ("%[]" if is_web else ""))}


def _file(file: RemoteFile) -> Object:
    """A file of an adapter. A git blob's id is a SWHID, where the origin lists no sha256."""
    return _filled(
        {
            "type": "file",
            "name": _text(file.path),
            "hashes": [{"alg": "SHA-256", "content": file.sha256}] if file.sha256 else [],
            "swhid": [f"swh:1:cnt:{file.git_sha1}"] if file.git_sha1 else [],
            "properties": _properties([("size", file.size)]),
        }
    )


def _model_card(inspection: Inspection, config: LoraConfig | None, base: BaseModel | None) -> Object:
    """The parameters of the model, as far as config and base tell them."""
    parameters = _filled(
        {
            "task": _text(inspection.task_type),
            "architectureFamily": _text(base.model_type) if base is not None else "",
            "modelArchitecture": _text((base.architecture if base else "") or (config.base_class if config else "")),
        }
    )
    return {"modelParameters": parameters} if parameters else {}


def _facts(one: Material, inspection: Inspection, config: LoraConfig | None) -> Iterator[tuple[str, object]]:
    """The properties of an adapter: what CycloneDX has no field for."""
    source = one.checked.source
    yield "name", one.name
    yield "source", "" if source.startswith("file://") else source
    yield "snapshot:sha256", one.snapshot
    yield "format", inspection.format
    yield "parameters", inspection.parameters or ""
    yield from _some("dtype", sorted(inspection.dtypes))
    yield "peft_type", (config.peft_type if config is not None else None) or ""
    yield from _some("lora:rank", sorted(inspection.ranks) or ([config.r] if config and "r" in config.given else []))
    yield "lora:alpha", config.lora_alpha if config is not None and "lora_alpha" in config.given else ""
    yield from _some("lora:scaling", [f"{scaling:.6g}" for scaling in sorted(inspection.scalings)])
    yield "lora:modules", inspection.modules or ""
    yield from _some("lora:target_module", sorted(inspection.targets))
    yield from _some("lora:feature", inspection.features)


def _some(name: str, values: Sequence[object]) -> Iterator[tuple[str, object]]:
    """One property for each value up to a limit, and how many more there are."""
    yield from ((name, value) for value in values[:MOST])
    yield f"{name}:more", len(values) - MOST if len(values) > MOST else ""


def _properties(facts: Iterable[tuple[str, object]]) -> list[Object]:
    """Facts in the namespace of lora-cli, without those that are unknown."""
    known = ((name, value) for name, value in facts if value not in {"", None})
    return [{"name": f"{NAMESPACE}:{name}", "value": _text(value)} for name, value in known]


def _text(value: object) -> str:
    """A text out of an adapter: on one line, without invisible characters, of bounded length."""
    return cut(safe(cut(str(value), LONGEST)), LONGEST)


def _filled(fields: Mapping[str, Any]) -> Object:
    """``fields`` without the empty ones."""
    return {key: value for key, value in fields.items() if value not in ("", [], {})}
