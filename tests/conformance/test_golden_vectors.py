"""The golden vectors are what the independent libraries compute, and say who computed them."""

from __future__ import annotations

from mx_plugin.formats import format_names
from mx_plugin.testing.golden_file import golden, read
from tests.conformance.golden_vectors import FILE, text


def test_the_file_is_what_its_command_writes() -> None:
    written, stored = text(), FILE.read_text("utf-8")
    vectors = written.index('"vectors"')  # above it stand the versions of the libraries, which may be others here
    assert stored[stored.index('"vectors"') :] == written[vectors:]


def test_the_file_names_libraries_their_versions_and_the_command() -> None:
    origin = str(read()["origin"])
    for word in ("ml_dtypes 0.", "gfloat 0.", "OCP Microscaling", "python -m tests.conformance.golden_vectors"):
        assert word in origin


def test_every_format_has_vectors_in_every_group() -> None:
    groups = {vectors.group for vectors in golden()}
    assert len(groups) == 10
    for fmt in ("MXFP8", "MXFP8_E5M2", "MXFP6", "MXFP6_E3M2", "MXFP4", "MXINT8"):
        assert fmt in format_names()
        assert {vectors.group for vectors in golden() if vectors.format == fmt} == groups
