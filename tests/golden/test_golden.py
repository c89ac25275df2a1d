"""Each golden file is what the command line does; compared by a process that nothing else has run in."""

import re
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.conftest import ROOT
from tests.golden.__main__ import FILES


@pytest.fixture(scope="module")
def compared() -> Mapping[str, str]:
    """What is said of each file, by one process: so its servers and PEFT's adapters are made once."""
    argv = [sys.executable, "-m", "tests.golden", *FILES]
    ran = subprocess.run(argv, check=False, cwd=ROOT, capture_output=True, text=True)
    said = re.split(r"^(?=\w+\.txt: )", ran.stdout, flags=re.MULTILINE)
    assert ran.returncode in {0, 1}, ran.stderr
    assert len(said) > 1, ran.stdout
    return {one.partition(".")[0]: one for one in said if one}


@pytest.mark.parametrize("name", FILES)
def test_the_command_line_does_what_the_golden_file_says(name: str, compared: Mapping[str, str]) -> None:
    assert re.fullmatch(r"\w+\.txt: \d+ cases\n", compared[name]), compared[name]
