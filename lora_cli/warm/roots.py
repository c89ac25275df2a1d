"""The sources from which clients may load adapters: folders of the operator, and sources that a policy allows."""

import os
from collections.abc import Sequence
from pathlib import Path

from lora_cli.errors import NotFound, Refused
from lora_cli.refs.reference import AdapterRef, parse
from lora_cli.settings import Settings


def allowed_reference(lora_path: str, roots: Sequence[Path], settings: Settings) -> AdapterRef:
    """The reference that a client's ``lora_path`` is.

    A folder must be under one of ``roots``, links followed; what is elsewhere needs a policy that allows its source by
    name. A relative path is relative to the first root that has it.

    Raises:
        Refused: it is neither.
        UsageError: it is no reference.
        NotFound: no root has it.
    """
    ref = parse(lora_path, is_path=lambda text: "/" not in text or any(os.path.lexists(root / text) for root in roots))
    if ref.scheme != "file":
        if not any(policy.allow_sources for policy in settings.policies):
            reason = f"{ref}: this server only loads remote adapters if a policy allows their source"
            raise Refused(reason, hint="start the server with a --policy that has allow_sources")
        return ref  # what fetches it checks whether the policies allow it
    text = lora_path if "://" not in lora_path else ref.location
    places = [(Path(os.path.realpath(root / text)), Path(os.path.realpath(root))) for root in roots]
    inside = [place for place, root in places if place != root and place.is_relative_to(root)]
    # Path.exists raises at a name that is too long for the file system.
    found = next((place for place in inside if os.path.exists(place)), None)  # noqa: PTH110
    if found is not None:
        return AdapterRef("file", str(found))
    if inside and not any(os.path.lexists(root / text) for root in roots):
        raise NotFound(f"there is no {lora_path}", hint="check that it is mounted where this server runs")
    raise Refused(f"{lora_path} is not below a folder from which this server loads adapters", hint="--root DIRECTORY")
