"""``key=value`` arguments of the commands that compute nothing with a model."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from align_pipeline import machine
from align_pipeline.errors import InputError, unknown


class Arguments:
    """The values given, by key; a key may be repeated.

    Args:
        given: the command line.
        keys: the keys that exist.
        required: those of `keys` that must be given.
        known: the names that the error about another key lists; None for `keys`.

    Raises:
        InputError: a key does not exist, has no value or is missing.
    """

    def __init__(
        self,
        given: Sequence[str],
        keys: Sequence[str],
        required: Sequence[str] = (),
        known: Sequence[str] | None = None,
    ) -> None:
        self.values: dict[str, list[str]] = {}
        for argument in given:
            key, equals, value = argument.partition("=")
            if "runs" in required and not equals and Path(argument).exists():
                raise InputError(f"'{argument}' is a path; write runs={argument}.")
            if key not in keys:
                raise unknown("argument", key, known or keys)
            if not equals or not value:
                raise InputError(f"{key} needs a value, as in {_example(key)}.")
            self.values.setdefault(key, []).append(value)
        for key in required:
            if key not in self.values:
                raise InputError(f"{_example(key)} is missing; --help shows how it is used.")

    def path(self, key: str) -> Path | None:
        """The last value given; None if there is none."""
        return Path(self.values[key][-1]) if key in self.values else None

    def text(self, key: str) -> str | None:
        """The last value given; None if there is none."""
        return self.values[key][-1] if key in self.values else None

    def whole(self, key: str, default: int, least: int = 0) -> int:
        """The value as an integer.

        Raises:
            InputError: it is not an integer, or too small.
        """
        text = self.values.get(key, [str(default)])[-1]
        if not text.isdigit() or int(text) < least:
            raise InputError(f"{key}={text} is not valid; use a whole number, {least} or greater.")
        return int(text)

    def names(self, key: str) -> tuple[str, ...]:
        """All names in the values, which are separated by commas; none if the key is not given.

        Raises:
            InputError: a name is empty.
        """
        found = [name.strip() for value in self.values.get(key, []) for name in value.split(",")]
        if "" in found:
            raise InputError(f"{key}={','.join(self.values[key])} has an empty name; separate names by one comma each.")
        return tuple(found)

    def folders(self, key: str) -> list[Path]:
        """All folders that match the values, which are folders or globs.

        Raises:
            InputError: one of them matches no folder.
        """
        return [path for pattern in self.values[key] for path in _matching(key, pattern)]


def _example(key: str) -> str:
    return f"{key}=<{'folder' if key in ('runs', 'out', 'folder') else 'value'}>"


def _matching(key: str, pattern: str) -> list[Path]:
    if Path(pattern).is_dir():
        return [Path(pattern)]
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    folders = [path if path.is_dir() else path.parent for path in found if path.is_dir() or path.suffix == ".parquet"]
    if not folders:
        raise InputError(f"{key}={pattern} matches no folder.")
    return folders


def command(given: Sequence[str] | None, usage: str, run: Callable[[Sequence[str]], None]) -> None:
    """Run a command. A user's mistake ends in one sentence and exit code 1.

    Args:
        given: the arguments; None for those of the process.
        usage: text that ``--help`` prints.
        run: runs the command; may raise `InputError`.
    """
    given = sys.argv[1:] if given is None else given
    machine.let_print()
    try:
        if any(argument in ("-h", "--help") for argument in given):
            print(usage)
        else:
            run(given)
        sys.stdout.flush()
    except BrokenPipeError:  # ... | head
        sys.stderr.close()
    except InputError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped.")
