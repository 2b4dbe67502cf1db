"""Find and render the templates of the page."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import BaseLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from align_pipeline.figures import style
from align_pipeline.page import columns, numbers


class _Packages(dict[str, BaseLoader]):
    """Template loaders by package, created on first use, so that sections of other packages can have templates."""

    def __missing__(self, package: str) -> BaseLoader:
        return self.setdefault(package, PackageLoader(package, "."))


def render(template: str, **shown: Any) -> Markup:
    """Render a template.

    Args:
        template: path starting with its package (or single module), such as ``align_pipeline/report/page.html``.
        shown: values for the template; text is escaped, `Markup` is not.

    Raises:
        jinja2.UndefinedError: the template uses a value that is missing.
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
        "languages": style.languages,
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
