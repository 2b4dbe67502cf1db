"""Templates: how they are found, and what each of them may use."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import BaseLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from align_pipeline.page import columns, numbers


class _Packages(dict[str, BaseLoader]):
    """A loader for each package that is asked for, so that other packages' sections can have templates too."""

    def __missing__(self, package: str) -> BaseLoader:
        return self.setdefault(package, PackageLoader(package, "."))


def render(template: str, **shown: Any) -> Markup:
    """Fill a template.

    Args:
        template: its package (or single module) and the path from there, as ``align_pipeline/report/page.html``.
        shown: what it shows; text is escaped, `Markup` is not.

    Raises:
        jinja2.UndefinedError: it asks for more than it is given.
    """
    return Markup(_environment().get_template(template).render(shown))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PrefixLoader(_Packages()),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": numbers.as_number,
        "count": numbers.as_count,
        "p_text": numbers.p_text,
        "task": numbers.task_name,
        "metric": numbers.metric_of,
    }
    environment.tests["missing"] = numbers.is_missing
    environment.globals |= {
        "column": columns,
        "between": numbers.as_range,
        "metric_name": numbers.metric_name,
        "metric_of": numbers.metric_of,
    }
    return environment
