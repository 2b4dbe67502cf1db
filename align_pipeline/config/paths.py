"""Folders of the package: its root, the embedded data and models, and ``conf``."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


EMBEDDED = PACKAGE / "embedded"


# A checkout keeps conf/ beside the package; a wheel carries it inside.
CONF = PACKAGE.parent / "conf" if (PACKAGE.parent / "conf" / "config.yaml").is_file() else PACKAGE / "conf"
