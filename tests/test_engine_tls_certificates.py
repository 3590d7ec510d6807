"""The edge's certificates: made, kept, reloaded, and refused in one line."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography import x509

from reference_engine.config import ConfigError
from reference_engine.tls.certificates import CHECK_EVERY, Certificates
from tests.engine_tls_support import self_signed, write_pem


class Clock:
    """A clock that stands until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_made_certificate_covers_engine_projects_and_tunnels(tmp_path: Path) -> None:
    made = Certificates(domain="edge.test", state_dir=tmp_path / "new" / "state")
    leaf, ca = made.current().chain
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["edge.test", "*.edge.test", "*.t.edge.test"]
    leaf.verify_directly_issued_by(ca)
    assert made.ca_file == tmp_path / "new" / "state" / "ca.pem"
    for secret in ("ca.key", "edge.key"):
        assert stat.S_IMODE((tmp_path / "new" / "state" / secret).stat().st_mode) == 0o600


def test_a_restart_keeps_the_ca_and_another_domain_gets_a_leaf_of_its_own(tmp_path: Path) -> None:
    first = Certificates(domain="edge.test", state_dir=tmp_path).current()
    again = Certificates(domain="edge.test", state_dir=tmp_path).current()
    other = Certificates(domain="other.test", state_dir=tmp_path).current()
    assert first.chain == again.chain
    assert first.chain[1] == other.chain[1]
    assert first.chain[0] != other.chain[0]


def test_a_damaged_leaf_is_made_anew(tmp_path: Path) -> None:
    Certificates(domain="edge.test", state_dir=tmp_path)
    (tmp_path / "edge.pem").write_text("rubbish")
    assert len(Certificates(domain="edge.test", state_dir=tmp_path).current().chain) == 2


def configured(tmp_path: Path, clock: Clock) -> Certificates:
    certificate, key = write_pem(self_signed("one.test"), tmp_path, "edge")
    return Certificates(domain="edge.test", state_dir=tmp_path, certificate_file=certificate, key_file=key, clock=clock)


def replace(tmp_path: Path, *names: str) -> None:
    """Write another pair, with a modification time that differs for certain."""
    for file in write_pem(self_signed(*names), tmp_path, "edge"):
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 10_000_000_000))


def test_changed_files_are_loaded_at_the_next_look(tmp_path: Path) -> None:
    clock = Clock()
    certificates = configured(tmp_path, clock)
    before = certificates.current()
    assert certificates.ca_file is None
    replace(tmp_path, "two.test")
    assert certificates.current() is before
    clock.now += CHECK_EVERY
    after = certificates.current()
    assert after.chain != before.chain
    clock.now += CHECK_EVERY
    assert certificates.current() is after


def test_a_pair_that_does_not_load_leaves_the_old_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    certificates = configured(tmp_path, clock)
    before = certificates.current()
    replace(tmp_path, "two.test")
    (tmp_path / "edge.pem").write_text("half")
    clock.now += CHECK_EVERY
    assert certificates.current() is before
    assert "certificate not reloaded" in caplog.text
    replace(tmp_path, "three.test")
    clock.now += CHECK_EVERY
    assert certificates.current() is not before


def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    certificate, key = write_pem(self_signed("one.test"), tmp_path, "one")
    other, _ = write_pem(self_signed("two.test"), tmp_path, "two")
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")

    def problem(certificate_file: Path, key_file: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            Certificates(domain="d.test", state_dir=tmp_path, certificate_file=certificate_file, key_file=key_file)
        text = str(caught.value)
        assert "\n" not in text
        return text

    assert "certificate_file" in problem(rubbish, key)
    assert "key_file" in problem(certificate, rubbish)
    assert "No such file" in problem(tmp_path / "absent.pem", key)
    assert "is not the key of" in problem(other, key)


def test_a_state_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="state_dir"):
        Certificates(domain="edge.test", state_dir=tmp_path / "file" / "below")
    (tmp_path / "ca.pem").write_text("rubbish")
    (tmp_path / "ca.key").write_text("rubbish")
    with pytest.raises(ConfigError, match="remove it"):
        Certificates(domain="edge.test", state_dir=tmp_path)
