"""What a person and a log file see while a stage goes on, and how the process is set up for it."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from align_pipeline.config.paths import CONF
from align_pipeline.tracking import console


def test_a_long_stage_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(console, "MINUTE", 0.1)
    stages = console.Stages()
    with caplog.at_level(logging.INFO):
        with stages.stage("scoring", "Scored swh_Latn", 8) as advance:
            advance(2)
            time.sleep(0.35)
        with stages.stage("model", "Loaded tiny"):
            time.sleep(0.25)
    lines = [record.getMessage() for record in caplog.records]
    assert sum("Scored swh_Latn: 2 of 8 texts, " in line and line.endswith("s left.") for line in lines) >= 2
    assert any(line.startswith("Loaded tiny: still running after ") for line in lines)
    before = len(lines)
    time.sleep(0.3)
    assert len(caplog.records) == before, "silent when it is over"
    assert stages.seconds["scoring"] > 0.3


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_passively_unless_the_user_says_otherwise(given: str | None, expected: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    if given is not None:
        environment["OMP_WAIT_POLICY"] = given
    code = "import sys, os, align_pipeline.run; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.split() == [expected, "False"], "set before torch reads it"


def rows(count: int) -> list[dict[str, object]]:
    return [{"language": f"l{k:02}_Latn", "n": 100 + k, "value": k / 7} for k in range(count)]


@pytest.mark.parametrize("width", [40, 60, 80, 113, 160])
def test_every_value_is_on_the_console_whatever_its_width(width: int) -> None:
    from rich.console import Console

    from align_pipeline.measurements.base import Column, Told
    from align_pipeline.summary import tables

    columns = [
        Column(f"metric {k}\nmax @layer, chance", lambda row, k=k: f"{k}.{row['value']:.3f} @{k}", no_wrap=True)
        for k in range(5)
    ]
    content = {"task": "xcopa", "model": "m", "data": {"source": "hub"}, "languages": rows(3)}
    made = tables(content, [Told({}, columns=columns, caption="What it is.")], width)
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        for one in made:
            console.print(one)
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    cells = [cell.strip() for line in lines if "│" in line for cell in line.split("│")]
    for row in rows(3):
        for k in range(5):
            assert cells.count(f"{k}.{row['value']:.3f} @{k}") == 1
        assert cells.count(str(row["n"])) == 1
        assert cells.count(str(row["language"])) == len(made)
    assert (len(made) == 1) == (width == 160)
    text = " ".join(captured.get().split())
    assert "What it is." in text
    assert text.count("xcopa: m on data from hub") == 1


def test_a_folder_with_brackets_is_printed_as_it_is() -> None:
    from rich.console import Console

    from align_pipeline import pipeline

    content = {"task": "xcopa", "model": "m", "data": {"source": "hub"}, "languages": rows(1)}
    screen = Console(file=io.StringIO(), width=160)
    found = SimpleNamespace(content=content, told=[], stages=SimpleNamespace(console=screen))
    pipeline._show(found, Path("out/[swh,ind]/[/a]"))  # type: ignore[arg-type]
    assert screen.file.getvalue().endswith("Tables and plots: out/[swh,ind]/[/a]\n")  # type: ignore[attr-defined]


def test_a_name_is_never_cut_off_on_a_narrow_console() -> None:
    from rich.console import Console

    from align_pipeline.measurements.base import printed

    table = printed("Activation patching", "", ["language", "condition"], ["attributable to the concept"])
    table.add_row("swh_Latn", "linear_shuffled", "+0.159 [-0.087, +0.420] over same_answer")
    console = Console(width=40, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    assert "…" not in captured.get()


@pytest.mark.parametrize("kind", ["job", "hydra"])
def test_a_console_that_has_gone_costs_no_traceback(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = yaml.safe_load((CONF / f"hydra/{kind}_logging/plain.yaml").read_text(encoding="utf-8"))
    module, _, name = settings["handlers"]["console"]["class"].rpartition(".")
    record = logging.makeLogRecord({"msg": "Read belebele"})
    for error, said in ((BrokenPipeError, False), (ValueError, True)):

        class Gone(io.StringIO):
            def write(self, text: str, error: type[Exception] = error) -> int:
                raise error

        getattr(import_module(module), name)(Gone()).handle(record)
        assert ("Logging error" in capsys.readouterr().err) == said


def test_a_job_whose_reader_has_gone_goes_on_to_its_end() -> None:
    """Log lines and tables on the console, as with ``| head -1``; rich would end the program at the first table."""
    script = (
        "import logging, sys, time\nfrom align_pipeline.tracking import console, logs\n"
        "logging.basicConfig(handlers=[logs.Lines(sys.stdout)], level=logging.INFO)\n"
        "screen = console.Stages().console\nprint('first', flush=True)\nsys.stdin.read()\n"
        "for _ in range(2):\n    {}\nprint('to the end', file=sys.stderr)"
    )
    for one in ("logging.info('a line')", "screen.print('a table')"):
        command = [sys.executable, "-c", script.format(one)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == "first\n"
            process.stdout.close()
            process.stdin.close()
            assert process.stderr.read() == "to the end\n"
            assert process.wait(60) == 0
