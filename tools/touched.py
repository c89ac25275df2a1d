"""The tests that are nearest to what changed since the last commit: ``make quick`` runs them, beside the golden files.

``lora_cli/NAME/…`` has its tests in ``tests/NAME``, ``lora_cli/NAME.py`` in ``tests/test_NAME.py``; a changed test file
is run itself, and with a changed file of data or support the folder that it is in.
"""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def changed() -> set[Path]:
    """What differs from HEAD, and what is new, relative to the root."""
    lines = [
        subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
        for words in (["diff", "--name-only", "HEAD"], ["ls-files", "--others", "--exclude-standard"])
    ]
    return {Path(line) for some in lines for line in some}


def nearest(path: Path) -> Path:
    """The test file or folder of a changed file."""
    top, *rest = path.parts
    if top == "tests":
        return path if path.name.startswith("test_") else path.parent
    if top == "lora_cli" and len(rest) > 1:
        return Path("tests", rest[0])
    return Path("tests", f"test_{path.stem if top == 'lora_cli' else 'docs'}.py")


def main() -> None:
    """Prints them, those below another one left out."""
    found = {near for path in changed() if (near := nearest(path)) != Path("tests") and (ROOT / near).exists()}
    print(*sorted(near.as_posix() for near in found if not found & {*near.parents}))


if __name__ == "__main__":
    main()
