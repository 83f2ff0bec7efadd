"""Mounted files are read again when they change."""

from __future__ import annotations

from pathlib import Path

from certificates import write_certificate
from spillway_operator.webhook.files import ServingCertificate, StatusKeys

KEY = "EBESExQVFhcYGRobHB0eHyAhIiMkJSYnKCkqKywtLi8="
OTHER = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def test_certificate_appears_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    certificate = ServingCertificate(tmp_path)
    certificate.refresh()
    assert not certificate.loaded
    write_certificate(tmp_path, "one")
    certificate.refresh()
    assert certificate.loaded
    (tmp_path / "tls.crt").write_text("half a certifi")
    certificate.refresh()
    assert certificate.loaded


def test_keys_follow_the_projected_folder(tmp_path: Path) -> None:
    """As the kubelet projects it: files are links through ..data, which is swapped."""
    for version, key in (("..1", KEY), ("..2", OTHER)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "current").write_text(key + "\n")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "current").symlink_to("..data/current")
    keys = StatusKeys(tmp_path)
    keys.refresh()
    assert keys.current == (KEY,)
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    keys.refresh()
    assert keys.current == (OTHER,)


def test_file_without_a_key_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "current").write_text(KEY)
    (tmp_path / "next").write_text("no key")
    keys = StatusKeys(tmp_path)
    keys.refresh()
    assert keys.current == (KEY,)


def test_unreadable_folder_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "current").write_text(KEY)
    keys = StatusKeys(tmp_path)
    keys.refresh()
    (tmp_path / "current").unlink()
    tmp_path.rmdir()
    keys.refresh()
    assert keys.current == (KEY,)
