import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.documents.option_values import parse_duration, parse_size
from lora_cli.errors import DocumentError, UsageError
from lora_cli.settings import HUB_ENDPOINT, Settings, load_settings


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }


def write_config(environ: dict[str, str], text: str) -> Path:
    file = Path(environ["XDG_CONFIG_HOME"]) / "lora-cli" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


def test_without_anything_set_the_defaults_hold(environ: dict[str, str], tmp_path: Path) -> None:
    assert load_settings({}, environ) == Settings(cache_dir=tmp_path / "cache" / "lora-cli")
    assert load_settings({}, {"HOME": str(tmp_path)}).cache_dir == tmp_path / ".cache" / "lora-cli"


def test_a_relative_xdg_directory_is_ignored(tmp_path: Path) -> None:
    settings = load_settings({}, {"HOME": str(tmp_path), "XDG_CACHE_HOME": "somewhere"})
    assert settings.cache_dir == tmp_path / ".cache" / "lora-cli"


def test_file_then_environment_then_flag_win(environ: dict[str, str]) -> None:
    file = write_config(environ, 'jobs = 2\nretries = 2\ntimeout = "2s"\nmax_bytes = "2GiB"\n')
    environ |= {"LORA_CLI_RETRIES": "3", "LORA_CLI_CACHE_DIR": "/there"}
    settings = load_settings({"cache_dir": "/here", "jobs": None}, environ)
    assert (settings.jobs, settings.retries, settings.timeout_s, settings.max_bytes) == (2, 3, 2.0, 2 << 30)
    assert settings.cache_dir == Path("/here")
    assert settings.config == file


def test_the_hub_variables_are_honoured_below_our_own(environ: dict[str, str]) -> None:
    environ |= {"HF_ENDPOINT": "http://127.0.0.1:8080/", "HF_HUB_OFFLINE": "1"}
    settings = load_settings({}, environ)
    assert (settings.hub_endpoint, settings.offline) == ("http://127.0.0.1:8080", True)
    environ |= {"LORA_CLI_HUB_ENDPOINT": "https://mirror.example", "LORA_CLI_OFFLINE": "no"}
    settings = load_settings({}, environ)
    assert (settings.hub_endpoint, settings.offline) == ("https://mirror.example", False)
    assert load_settings({}, {**environ, "HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": "1"}).offline is False
    del environ["LORA_CLI_OFFLINE"]
    assert load_settings({}, {**environ, "HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": "1"}).offline is True
    assert load_settings({}, {**environ, "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}).offline is False


def test_an_empty_variable_is_no_variable(environ: dict[str, str]) -> None:
    environ |= {"LORA_CLI_JOBS": "", "HF_ENDPOINT": "", "HF_HUB_OFFLINE": "", "LORA_CLI_CACHE_DIR": ""}
    assert load_settings({}, environ) == load_settings({}, {k: v for k, v in environ.items() if v})


def test_quiet_on_a_higher_layer_beats_verbose_on_a_lower_one(environ: dict[str, str]) -> None:
    environ["LORA_CLI_VERBOSE"] = "1"
    settings = load_settings({"quiet": True}, environ)
    assert (settings.quiet, settings.verbose) == (True, False)
    with pytest.raises(UsageError, match="cannot be used together"):
        load_settings({"quiet": True, "verbose": True}, environ)


def test_the_cache_directory_becomes_absolute(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings({"cache_dir": "here"}, environ).cache_dir == tmp_path / "here"
    assert load_settings({"cache_dir": Path("~/there")}, environ).cache_dir == tmp_path / "there"
    file = write_config(environ, 'cache_dir = "beside"\n')
    assert load_settings({}, environ).cache_dir == file.parent / "beside"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("\njobz = 1\n", "config.toml:2: jobz: unknown key", "did you mean jobs?"),
        (
            "retries = 1\njobs = 0\n",
            "config.toml:2: jobs: 0 is not a whole number from 1 to 256",
            "Maximum number of concurrent",
        ),
        ("jobs = true\n", "config.toml:1: jobs: True is not", "Maximum"),
        (
            "timeout = -1\n",
            "config.toml:1: timeout: -1 is not a duration",
            "write 30s, 500ms, 1h30m or a number of seconds",
        ),
        ("[jobs]\na=1\n", "config.toml:1: jobs: ", "Maximum"),
        (
            '[sources]\nmatch="a/*"\n',
            "config.toml:1: sources: input should be a list",
            "known keys: ",
        ),
        ("jobs = \n", "this is not TOML", "write NAME = VALUE, strings in quotes"),
        ("jobs = 1\njobs = 2\n", "this is not TOML", "write NAME = VALUE, strings in quotes"),
        ('offline = "maybe"\n', "config.toml:1: offline: 'maybe' is not true or false", "Make no network"),
    ],
)
def test_a_wrong_file_names_line_key_and_value(environ: dict[str, str], text: str, message: str, hint: str) -> None:
    write_config(environ, text)
    with pytest.raises(UsageError) as caught:
        load_settings({}, environ)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_every_mistake_of_a_file_is_told(environ: dict[str, str]) -> None:
    file = write_config(environ, 'jobz = 1\ntimeout = -1\n\noffline = "maybe"\nretries = 3\n')
    with pytest.raises(DocumentError) as caught:
        load_settings({}, environ)
    assert [error.message.removeprefix(f"{file}:") for error in caught.value.mistakes] == [
        "1: jobz: unknown key",
        "2: timeout: -1 is not a duration",
        "4: offline: 'maybe' is not true or false",
    ]
    assert all(error.hint for error in caught.value.mistakes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jobs = " + "9" * 5000, "this is not TOML"),
        ("max_files = 1979-05-27", "1: max_files: datetime.date(1979, 5, 27) is not a whole number"),
        (
            '[[sources]]\nmatch = "s3://a/*"\ntoken_env = "supersecret!"',
            "3: sources[0].token_env: string should match pattern",
        ),
    ],
)
def test_odd_values_of_a_file_are_told_and_not_repeated(environ: dict[str, str], text: str, said: str) -> None:
    write_config(environ, text)
    with pytest.raises(UsageError) as caught:
        load_settings({}, environ)
    assert said in caught.value.message
    assert "supersecret" not in caught.value.message


def test_a_named_file_must_exist(environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no settings file .*nowhere\.toml"):
        load_settings({}, environ | {"LORA_CLI_CONFIG": str(tmp_path / "nowhere.toml")})


@pytest.fixture
def unreadable(environ: dict[str, str]) -> Path:
    """A plain file, by its status, that nobody can read: not even root, whom no mode keeps out."""
    file = Path(environ["XDG_CONFIG_HOME"]) / "lora-cli" / "config.toml"
    file.parent.mkdir(parents=True)
    file.symlink_to("/proc/self/mem")
    if not file.is_file():
        pytest.skip("this system has no such file")
    return file


def test_a_file_in_the_usual_place_that_cannot_be_read_is_left_out(environ: dict[str, str], unreadable: Path) -> None:
    settings = load_settings({}, environ)
    assert settings.config is None
    assert settings.config_error.startswith(f"{unreadable}: the settings file cannot be read: ")


def test_a_file_that_was_named_and_cannot_be_read_is_an_error(environ: dict[str, str], unreadable: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read") as caught:
        load_settings({}, environ | {"LORA_CLI_CONFIG": str(unreadable)})
    assert "LORA_CLI_CONFIG" in caught.value.hint


@pytest.mark.parametrize(("words", "told"), [(["--verbose"], 1), ([], 0), (["--quiet"], 0)])
def test_only_verbose_says_that_it_is_left_out_and_says_it_once(
    environ: dict[str, str], unreadable: Path, words: list[str], told: int
) -> None:
    command = [sys.executable, "-m", "lora_cli", *words, "cache", "path"]
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, check=True)
    assert done.stderr.count("the settings file cannot be read") == told
    assert Path(done.stdout.strip()) == Path(environ["XDG_CACHE_HOME"]) / "lora-cli"


def test_a_huge_or_binary_file_is_refused(environ: dict[str, str]) -> None:
    file = write_config(environ, "#" * 2_000_000)
    with pytest.raises(UsageError, match="over 1000000 bytes"):
        load_settings({}, environ)
    file.write_bytes(b"jobs = \xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_settings({}, environ)


@pytest.mark.parametrize(
    ("name", "value"), [("JOBS", "0"), ("TIMEOUT", "0s"), ("LEASE", "12d"), ("RETRIES", "-1"), ("MAX_BYTES", "some")]
)
def test_a_wrong_variable_is_named(environ: dict[str, str], name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"^LORA_CLI_{name}: "):
        load_settings({}, {**environ, f"LORA_CLI_{name}": value})


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_an_endpoint_has_a_port_that_there_is(port: str, environ: dict[str, str]) -> None:
    assert load_settings({}, environ | {"HF_ENDPOINT": "https://hub.example:65535"}).hub_endpoint.endswith(":65535")
    with pytest.raises(UsageError, match="not the address of a server"):
        load_settings({}, environ | {"HF_ENDPOINT": f"https://hub.example:{port}"})


def test_a_password_in_the_endpoint_is_refused_and_not_repeated(environ: dict[str, str]) -> None:
    environ["HF_ENDPOINT"] = "https://user:hf_secret@hub.example"
    with pytest.raises(UsageError) as caught:
        load_settings({}, environ)
    assert "hf_secret" not in caught.value.message + caught.value.hint
    assert load_settings({"hub_endpoint": HUB_ENDPOINT}, environ | {"HF_ENDPOINT": ""}).hub_endpoint == HUB_ENDPOINT


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 << 30),
        ("8Gi", 8 << 30),
        ("8gb", 8 * 10**9),
        ("1.5 KiB", 1536),
        ("0", 0),
        ("17B", 17),
        (12, 12),
        ("1M", 10**6),
    ],
)
def test_sizes_read_as_operators_write_them(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30.0), ("500ms", 0.5), ("1h30m", 5400.0), ("7d", 604800.0), ("30", 30.0), (2.5, 2.5), (1e-05, 1e-05)],
)
def test_durations_read_as_operators_write_them(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "1e9", "1 GiB GiB", "0x10", "١", "9" * 50, "nan", True, None, [], 1.5]
)
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", "inf", "nan", "1s1", "1 day", "s1", "9" * 50, True, None, float("inf")]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)  # type: ignore[arg-type]


@given(st.text(max_size=30) | st.from_regex(r"[0-9.]{1,8} ?[KMGTPkmg]?i?[bB]?", fullmatch=True))
def test_any_text_is_a_size_in_range_or_a_value_error(text: str) -> None:
    try:
        size = parse_size(text)
    except ValueError:
        return
    assert 0 <= size < 2**63


@given(st.integers(0, 2**63 - 1))
def test_a_number_of_bytes_is_itself(size: int) -> None:
    assert parse_size(size) == parse_size(str(size)) == parse_size(f"{size}B") == size


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_parts_of_a_duration_add_up(hours: int, minutes: int, ms: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{ms}ms") == pytest.approx(hours * 3600 + minutes * 60 + ms / 1000)


def test_loading_settings_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lora_cli.settings import load_settings; load_settings({}, {'HOME': '/nonexistent'});"
        "print(sorted({'tomllib', 'yaml', 'numpy', 'difflib', 'http.client'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("turn", ["first", "second"])
def test_each_test_has_a_home_of_its_own(turn: str) -> None:
    home = Path(os.environ["HF_HOME"])
    assert not home.exists(), turn
    home.mkdir(parents=True)
