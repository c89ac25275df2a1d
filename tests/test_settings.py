"""Settings of four layers, and the values as operators write them."""

from pathlib import Path

import pytest

from lora_cli.documents.option_values import parse_duration, parse_size
from lora_cli.errors import MachineError, UsageError
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
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_without_anything_set_the_defaults_hold(environ: dict[str, str], tmp_path: Path) -> None:
    assert load_settings({}, environ) == Settings(cache_dir=tmp_path / "cache" / "lora-cli")
    for more in ({}, {"XDG_CACHE_HOME": "relative"}):
        assert load_settings({}, {"HOME": str(tmp_path), **more}).cache_dir == tmp_path / ".cache" / "lora-cli"


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
    own = {**environ, "LORA_CLI_HUB_ENDPOINT": "https://mirror.example", "LORA_CLI_OFFLINE": "no"}
    settings = load_settings({}, own)
    assert (settings.hub_endpoint, settings.offline) == ("https://mirror.example", False)
    assert load_settings({}, {**environ, "HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": "1"}).offline is True
    assert load_settings({}, {**environ, "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}).offline is False


def test_an_empty_variable_is_no_variable(environ: dict[str, str]) -> None:
    empty = dict.fromkeys(("LORA_CLI_JOBS", "HF_ENDPOINT", "HF_HUB_OFFLINE", "LORA_CLI_CACHE_DIR"), "")
    assert load_settings({}, environ | empty) == load_settings({}, environ)


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
        ("jobs = 2\ntimeut = 3\n", "config.toml:2: timeut: unknown key", "did you mean timeout?"),
        ("jobs = 0\n", "config.toml:1: jobs: 0 is not a whole number from 1 to 256", "Maximum"),
        ('[sources]\nmatch="a/*"\n', "config.toml:1: sources: input should be a list", "known keys: "),
        ('[[sources]]\nmatch = "hf://*"\ntoken_env = "s3cret!"', "3: sources[0].token_env: string should match", ""),
        ("jobs = \n", "this is not TOML", "write NAME = VALUE, strings in quotes"),
        ('offline = "maybe"\n', "config.toml:1: offline: 'maybe' is not true or false", "Make no network"),
    ],
)
def test_a_wrong_file_names_line_key_and_value(environ: dict[str, str], text: str, message: str, hint: str) -> None:
    write_config(environ, text)
    with pytest.raises(UsageError) as caught:
        load_settings({}, environ)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "s3cret" not in caught.value.message


def test_a_file_that_is_missing_or_cannot_be_read_is_an_error(environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no settings file .*nowhere\.toml"):
        load_settings({}, environ | {"LORA_CLI_CONFIG": str(tmp_path / "nowhere.toml")})
    file = write_config(environ, "")
    file.write_bytes(b"jobs = \xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_settings({}, environ)
    file.unlink()
    file.symlink_to("/proc/self/mem")  # which not even root can read
    with pytest.raises(MachineError, match="the settings file cannot be read"):
        load_settings({}, environ)


@pytest.mark.parametrize(
    ("name", "value"), [("JOBS", "0"), ("TIMEOUT", "0s"), ("LEASE", "12d"), ("RETRIES", "-1"), ("MAX_BYTES", "some")]
)
def test_a_wrong_variable_is_named(environ: dict[str, str], name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"^LORA_CLI_{name}: "):
        load_settings({}, {**environ, f"LORA_CLI_{name}": value})


def test_a_password_in_the_endpoint_is_refused_and_not_repeated(environ: dict[str, str]) -> None:
    for address in ("https://user:hf_secret@hub.example", "https://hub.example/?token=hf_secret", "https://hub:65536"):
        with pytest.raises(UsageError, match="not the address of a server") as caught:
            load_settings({}, environ | {"HF_ENDPOINT": address})
        assert "hf_secret" not in caught.value.message + caught.value.hint
    assert load_settings({"hub_endpoint": HUB_ENDPOINT}, environ | {"HF_ENDPOINT": ""}).hub_endpoint == HUB_ENDPOINT


SIZES = {"8GiB": 8 << 30, "8Gi": 8 << 30, "8gb": 8 * 10**9, "1.5 KiB": 1536, "0": 0, "17B": 17, "1M": 10**6}
DURATIONS = {"30s": 30.0, "500ms": 0.5, "1h30m": 5400.0, "7d": 604800.0, "30": 30.0, "2.5": 2.5}
NEITHER = ["", "GiB", "-1", "s", "1 day", "1s1", "1e9", "0x10", "١", "9" * 50, "nan", "inf", True, None, []]


def test_sizes_and_durations_read_as_operators_write_them() -> None:
    assert {text: parse_size(text) for text in SIZES} == SIZES
    assert {text: parse_duration(text) for text in DURATIONS} == DURATIONS
    assert (parse_size(12), parse_duration(2.5)) == (12, 2.5)


@pytest.mark.parametrize("value", NEITHER)
def test_what_is_none_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(value)  # type: ignore[arg-type]
