"""Group `lang`: a language and its name in each data set."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from align_pipeline.config.paths import CONF


@dataclass
class Language:
    """A language and its name in each data set."""

    name: str = MISSING
    """English name."""
    script: str = MISSING
    """ISO 15924 code."""
    family: str = MISSING
    """Top-level language family."""
    resource: int = MISSING
    """Resource class, 0 (least) to 5, of Joshi et al. 2020."""
    flores: str = MISSING
    """FLORES code, which names the language in every table."""
    codes: dict[str, str] = field(default_factory=dict)
    """The data set's config of the language, by task name."""
    pivots: dict[str, str] = field(default_factory=dict)
    """The data set's config of the English side, by task name, if each language has its own (XCOPA)."""


@functools.cache
def known_languages() -> dict[str, dict[str, Any]]:
    """The content of ``conf/lang``, by the code that ``lang=`` takes."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = {path.stem: yaml.load(path.read_bytes(), loader) for path in sorted((CONF / "lang").glob("*.yaml"))}
    return {code: language for code, language in found.items() if language}


@functools.cache
def names() -> dict[str, str]:
    """The English name of each language, by FLORES code."""
    return {str(one["flores"]): str(one["name"]) for one in reversed(known_languages().values()) if "flores" in one}


def name_of(code: Any) -> str:
    """The English name of a language; a code that is not known stands for itself."""
    return names().get(str(code), str(code))
