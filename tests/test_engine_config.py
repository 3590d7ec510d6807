"""The table of settings: every key by file and by flag, and one line for whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from reference_engine.config import ConfigError, Key, Settings, keys, load, parse_address
from reference_engine.relay.stream import Address

KEYS = keys()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_no_file_and_no_flag_is_the_default() -> None:
    assert load() == Settings()


@pytest.mark.parametrize("key", [key for key in KEYS.values() if type(key.default) is int], ids=lambda key: key.name)
def test_every_number_by_file_and_by_flag(key: Key, tmp_path: Path) -> None:
    value = key.default + 1
    assert getattr(load(write(tmp_path / "engine.toml", f"{key.name} = {value}")), key.name) == value
    assert getattr(load(None, {key.name: str(value)}), key.name) == value
    for wrong in ("-1", "1.5", "x", str(1 << 62)):
        with pytest.raises(ConfigError) as caught:
            load(None, {key.name: wrong})
        assert str(caught.value).startswith(f"{key.flag}: found ")
        assert "allowed: an integer from " in str(caught.value)


def test_every_duration_goes_down_to_a_millisecond() -> None:
    for name in KEYS:
        if name.endswith("_ms"):
            assert getattr(load(None, {name: "1"}), name) == 1


def test_a_flag_wins_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "engine.toml", 'http_idle_ms = 5\nedition = "pro"')
    settings = load(file, {"http_idle_ms": "7"})
    assert (settings.http_idle_ms, settings.edition) == (7, "pro")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("[::1]:443", Address("::1", 443)),
        ("name:65535", Address("name", 65535)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", ":1", "a", "a:", "a:65536", "a:-1", "::1:443", "[x]:1", "a:٣"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the table turns it into words
        parse_address(text)


def test_off_turns_a_listener_off(tmp_path: Path) -> None:
    assert load(write(tmp_path / "engine.toml", 'http_listen = "off"')).http_listen is None
    assert load(None, {"http_listen": "127.0.0.1:80"}).http_listen == Address("127.0.0.1", 80)
    assert load(None, {"http_listen": "off"}).http_listen is None


def test_tokens_and_certificates(tmp_path: Path) -> None:
    file = write(
        tmp_path / "engine.toml",
        'project = "shop"\ntokens = ["plain"]\n[[agent_certificates]]\n'
        f'fingerprint = "{"AB:" * 31}AB"\nproject = "other"\npermissions = []\n',
    )
    settings = load(file)
    assert not settings.open_mode
    assert (settings.tokens[0].token, settings.tokens[0].project) == ("plain", "shop")
    assert settings.agent_certificates[0].fingerprint == "ab" * 32
    assert settings.agent_certificates[0].permissions == ()
    assert load(None, {"tokens": '[{token = "a", project = "b"}]'}).tokens[0].project == "b"


def test_a_token_is_never_shown() -> None:
    settings = load(None, {"tokens": '["s3cr3t"]'})
    assert "s3cr3t" not in repr(settings)
    with pytest.raises(ConfigError) as caught:
        load(None, {"tokens": '[{token = "s3cr3t", projekt = "b"}]'})
    assert "s3cr3t" not in str(caught.value)


WRONG = [
    ("http_idel_ms = 1", "unknown key 'http_idel_ms' (did you mean 'http_idle_ms'?)"),
    ("zzz = 1", "unknown key 'zzz'; allowed: listen, "),
    ("http_idle_ms = true", "http_idle_ms: found True; allowed: an integer from 1"),
    ('edition = "gold"', "edition: found 'gold'; allowed: one of community, basic, pro, enterprise"),
    ('domain = "-x"', "domain: found '-x'; allowed: a DNS name"),
    ('project = "t"', "project: found 't'; allowed: one lower-case DNS label"),
    ("listen = 9443", "listen: found 9443; allowed: host:port"),
    ('key_file = "/nonexistent"', "key_file: cannot read /nonexistent: No such file or directory"),
    ('agent_certificates = ["abc"]', "agent_certificates: found ['abc']; allowed: a list"),
    ("= 3", "is not TOML"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=[text for text, _ in WRONG])
def test_wrong_file_is_one_line(text: str, expected: str, tmp_path: Path) -> None:
    file = write(tmp_path / "engine.toml", text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(file) in str(caught.value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config: cannot read .*No such file"):
        load(tmp_path / "absent.toml")


def test_certificate_and_key_belong_together(tmp_path: Path) -> None:
    file = write(tmp_path / "a.pem", "")
    with pytest.raises(ConfigError, match="certificate_file: given without key_file"):
        load(None, {"certificate_file": str(file)})
