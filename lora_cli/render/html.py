"""Reports as self-contained HTML pages without scripts, from the templates in ``templates/``.

Whatever enters a template passes ``safe`` and is escaped: no name of an adapter becomes markup.
"""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lora_cli.text import safe
from lora_cli.version import __version__


@cache
def templates() -> Environment:
    """The jinja2 environment: text is escaped, undefined variables are errors, and no text can be marked as safe."""
    environment = Environment(
        loader=PackageLoader("lora_cli.render"),
        autoescape=True,
        undefined=StrictUndefined,
        # Markup of macros stays; control characters of all other values are escaped.
        finalize=lambda value: value if isinstance(value, Markup) else safe(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    del environment.filters["safe"]
    environment.globals["version"] = __version__
    return environment
