"""W&B fails in the middle of a job: the job goes on, waits only for a while, says one line and loses no table."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import run_job

from align_pipeline.config.wandb import WandbConfig, WandbMode
from align_pipeline.tracking import wandb as tracking
from align_pipeline.tracking.live import Live

JOB = ("task=xcopa", "lang=[swh]", "task.limit=6", "task.num_fewshot=0", "metric=dali")


class Server:
    """As much of W&B's server as a run needs to begin and to send rows; it may stop answering, or answer errors.

    Attributes:
        how: ``well``, ``errors`` or ``never``: how it answers.
        asked: the requests so far.
    """

    def __init__(self) -> None:
        self.how, self.asked = "well", list[str]()
        self.over = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                name = json.loads(content).get("operationName", "") if self.path == "/graphql" else self.path
                server.asked.append(name)
                if server.how == "never":
                    server.over.wait()
                    return
                answer = json.dumps(server.answer(name)).encode()
                self.send_response(200 if server.how == "well" else 500)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    @staticmethod
    def answer(name: str) -> dict[str, Any]:
        project = {"id": "p", "name": "align_pipeline", "entity": {"id": "e", "name": "me"}}
        person = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
        run = {"id": "r", "name": "r", "displayName": "r", "config": "{}", "historyLineCount": 0, "project": project}
        known = {
            "Viewer": {"viewer": person},
            "RunResumeStatus": {"model": {**project, "bucket": None}},
            "UpsertBucket": {"upsertBucket": {"bucket": run, "inserted": True}},
            "CreateRunFiles": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": []}},
        }
        return {"data": known.get(name, {})}

    def die(self) -> None:
        self.over.set()
        if self.thread.is_alive():
            self.http.shutdown()
            self.http.server_close()
            self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    import wandb

    found = Server()
    wandb.teardown()  # W&B's own process has the address of the server that it started with
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{found.http.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(tracking, "_PATIENCE", 2)
    monkeypatch.setattr(tracking, "_UPLOAD", 2)
    yield found
    found.die()
    wandb.teardown()


@pytest.mark.parametrize("how", ["dies", "errors", "never"])
def test_a_server_that_goes_away_costs_a_line_and_a_short_wait(
    server: Server, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Live(tracking.checked(WandbConfig(mode=WandbMode.online)), tmp_path, {}, "job", "work")
    run.open("job", ["tag"])
    assert run.is_open
    assert "UpsertBucket" in server.asked
    if how == "dies":
        server.die()
    server.how = how
    run.log({"accuracy": 0.5})
    start = time.monotonic()
    run.close()
    assert time.monotonic() - start < 10
    assert sum("W&B failed" in line for line in caplog.messages) == 1
    assert f"wandb sync {tmp_path}/wandb/run-" in caplog.text


def test_a_server_that_never_answers_leaves_the_run_offline(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setattr(wandb, "login", lambda: True)  # it answers the login, and then no more
    server.how = "never"
    start = time.monotonic()
    run = Live(tracking.checked(WandbConfig(mode=WandbMode.online)), tmp_path, {}, "job", "work")
    run.open("job", ["tag"])
    run.log({"accuracy": 0.5})
    run.close()
    assert time.monotonic() - start < 15
    assert sum("W&B failed" in line for line in caplog.messages) == 1
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.mark.parametrize("mode", ["offline", None])
@pytest.mark.parametrize("key", ["wrong", None])
def test_a_refused_login_leaves_the_run_offline(
    server: Server,
    key: str | None,
    mode: str | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if mode is None:
        monkeypatch.delenv("WANDB_MODE", raising=False)
    else:
        monkeypatch.setenv("WANDB_MODE", mode)  # the config's word counts
    monkeypatch.setattr(server, "answer", lambda name: {"data": {"viewer": None}})
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    if key is None:
        monkeypatch.delenv("WANDB_API_KEY")
    assert tracking.checked(WandbConfig(mode=WandbMode.online)).mode is WandbMode.offline
    assert sum("W&B failed" in line and "kept offline" in line for line in caplog.messages) == 1


def own_processes() -> list[int]:
    """W&B's processes that this one started."""
    found = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "wandb-core" in line or "gpu_stats" in line]


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.name: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}


def assert_same(found: Path, expected: Path) -> None:
    own, others = tables(found), tables(expected)
    assert list(own) == list(others) != []
    for name, table in own.items():
        pd.testing.assert_frame_equal(table, others[name])


def test_a_killed_process_of_wandb_costs_a_line_and_the_next_job_logs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from align_pipeline.measurements.alignment.measure import Alignment

    compute = Alignment._compute

    def killed(self: Alignment, pair: Any) -> Any:
        found = own_processes()
        assert found
        for number in found:
            os.kill(number, signal.SIGKILL)
        return compute(self, pair)

    run_job(tmp_path / "without", *JOB)
    with monkeypatch.context() as patched:
        patched.setattr(Alignment, "_compute", killed)
        run_job(tmp_path / "killed", *JOB, "wandb.mode=offline")
    assert_same(tmp_path / "killed", tmp_path / "without")
    assert sum("W&B failed" in line for line in caplog.messages) == 1
    run_job(tmp_path / "next", *JOB, "wandb.mode=offline")
    assert sum("W&B failed" in line for line in caplog.messages) == 1
    assert list(tmp_path.glob("next/wandb/offline-run-*/run-*.wandb"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_of_wandb_costs_a_line_and_no_table(
    tmp_path: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    wandb.teardown()
    run_job(tmp_path / "without", *JOB)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "wandb").symlink_to(small_disk)
    (small_disk / "filler").write_bytes(b"0" * 32 * 1024)
    run_job(tmp_path / "job", *JOB, "wandb.mode=offline")
    assert_same(tmp_path / "job", tmp_path / "without")
    assert sum("W&B failed" in line and "No space left" in line for line in caplog.messages) == 1


def test_rows_that_a_full_disk_swallows_cost_a_line(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Live(WandbConfig(mode=WandbMode.offline), small_disk, {}, "job", "work")
    run.open("job", [])
    for number in range(300):
        run.log({f"a_long_name_of_a_number_{number}_{k}": float(k) for k in range(10)})
    run.close()
    assert sum("is full" in line for line in caplog.messages) == 1


def test_a_full_disk_of_results_leaves_no_half_table_and_a_good_cache(tmp_path: Path, small_disk: Path) -> None:
    from align_pipeline.errors import InputError
    from align_pipeline.store.cache import entries

    cache = f"cache={tmp_path / 'cache'}"
    (small_disk / "filler").write_bytes(b"0" * 50 * 1024)
    with pytest.raises(InputError, match="the disk is full"):
        run_job(small_disk / "job", *JOB, cache)
    assert not [path for path in (small_disk / "job").iterdir() if not path.name.startswith(".")]
    kept = entries(tmp_path / "cache")
    assert kept
    assert not any(entry.damage for entry in kept)
    run_job(tmp_path / "without", *JOB)
    run_job(tmp_path / "job", *JOB, cache)
    assert_same(tmp_path / "job", tmp_path / "without")
