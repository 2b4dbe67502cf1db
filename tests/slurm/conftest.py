"""A cluster for the tests of this folder."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the other tests' conftest
sys.path.insert(0, str(Path(__file__).parent))
import cluster as slurm_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[slurm_cluster.Cluster]:
    missing = [name for name in slurm_cluster.COMMANDS if not shutil.which(name, path=slurm_cluster.PATH)]
    if missing:
        pytest.skip(f"SLURM is not installed (no {', '.join(missing)}); tests/slurm/install.sh installs it as root")
    above = Path(tempfile.mkdtemp(prefix="slurm-"))
    above.chmod(0o755)
    running = slurm_cluster.start(above / "cluster")
    try:
        yield running
    finally:
        running.stop()
        shutil.rmtree(above)
