"""The installed command `align_pipeline`: the commands of the modules under one name."""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module, metadata

from align_pipeline.errors import unknown

VERBS = {
    "run": ("align_pipeline.run", "run one job or, with -m, a sweep; `run` may be left out"),
    "report": ("align_pipeline.report.report", "write a report over the tables of finished jobs"),
    "tune": ("align_pipeline.tune.__main__", "train a model to align other languages with English"),
    "audit": ("align_pipeline.audit", "check the error rates of the report's tests on your own tables"),
    "comet": ("align_pipeline.comet", "add COMET scores to translations"),
    "cache": ("align_pipeline.cache", "list the cache, or prune it"),
    "workspace": ("align_pipeline.workspace", "save a W&B workspace for these runs"),
}
"""Verb -> module with a function `main`, and what it does."""


def main() -> None:
    """The command line: a verb and its arguments; without a verb, those of `run`."""
    given = sys.argv[1:]
    if given == ["--version"]:
        print(f"align_pipeline {metadata.version('align_pipeline')}")
        return
    if given in ([], ["help"]):
        print("align_pipeline: does a model map other languages onto English, and does that decide whether it answers")
        print("right? Usage: align_pipeline <command> ...; `align_pipeline <command> --help` says more.\n")
        print("\n".join(f"  {verb:10} {about}" for verb, (_, about) in VERBS.items()))
        print("\nExample: align_pipeline run task=belebele lang=swh")
        return
    if given[:1] in (["-sc"], ["--shell-completion"]):
        begun = re.fullmatch(r"\S+\s+([a-z]+)", os.environ.get("COMP_LINE", ""))
        verbs = [one for one in VERBS if begun and one.startswith(begun[1])]
        verb = _verb_of_completion()
        if verbs or verb not in ("run", "tune"):  # the other commands have no groups that Hydra could complete
            print("\n".join(verbs))
            return
        given = [verb, *given]
    verb = given[0] if given[0] in VERBS else "run"
    if verb == "run" and given[0] != "run" and "=" not in given[0] and not given[0].startswith("-"):
        sys.exit(f"Error: {unknown('command', given[0], VERBS)}")
    own = given[1:] if given[0] in VERBS else given
    sys.argv = [f"{sys.argv[0]} {verb}", *own]
    module, _ = VERBS[verb]
    import_module(module).main()


def _verb_of_completion() -> str:
    """The verb of the command line that the shell completes; it is taken out of the line, which Hydra then reads."""
    line = os.environ.get("COMP_LINE", "")
    found = re.match(rf"(\S+\s+)({'|'.join(VERBS)})\s+", line)
    if found is None:
        return "run"
    os.environ["COMP_LINE"] = found[1] + line[found.end() :]
    os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    return found[2]


if __name__ == "__main__":
    main()
