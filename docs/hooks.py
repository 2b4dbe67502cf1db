"""What mkdocs makes of the source: the home page of README.md, the reference of docstrings and comments."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "align_pipeline"


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Fill in what a page leaves to the source; see mkdocs."""
    name = page.file.src_path
    if name == "index.md":
        home = (ROOT / "README.md").read_text(encoding="utf-8")
        home = home.replace("(docs/", "(").replace("(benchmarks/RESULTS.md)", "(benchmarks.md)")
        return home.replace("[CITATION.cff](CITATION.cff)", "`CITATION.cff`")
    if name == "benchmarks.md":
        results = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
        return re.sub(r"\]\(\.\./docs/", "](", results)
    return markdown.replace("[[keys]]", keys()).replace("[[tables]]", tables())


def keys() -> str:
    """A table of every config group's keys."""
    parts = []
    for path in (path for part in ("config", "data/tasks", "tune/objectives") for path in _files(part)):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
                # A class that lists attributes holds data, not config.
                parts += [] if "Attributes:" in (ast.get_docstring(node) or "") else [_group(node)]
    return "\n\n".join(parts)


def _files(part: str) -> list[Path]:
    return sorted((PACKAGE / part).glob("*.py"))


def _group(node: ast.ClassDef) -> str:
    about = " ".join((ast.get_docstring(node) or "").split())
    own = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id != "ABC"]
    inherited = [f"It also has the keys of {' and '.join(own)}.", ""] if own else []
    lines = [f"### {node.name}", "", about, "", *inherited, "| key | type | default | |", "|---|---|---|---|"]
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
            told = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            default = "" if field.value is None else ast.unparse(field.value)
            default = {"MISSING": "required"}.get(default, re.sub(r"field\(default_factory=(\w+)\)", r"\1()", default))
            cells = (ast.unparse(field.target), ast.unparse(field.annotation), default, " ".join(str(told).split()))
            lines.append("| `{}` | `{}` | `{}` | {} |".format(*(cell.replace("|", "\\|") for cell in cells)))
    return "\n".join(lines if lines[-1] != "|---|---|---|---|" else lines[:-3])


def tables() -> str:
    """A table of every parquet file's columns, with the comments that stand beside them."""
    parts = []
    for path in sorted((PACKAGE / "measurements").glob("*/table.py")):
        schemas = re.split(r"^(\w+) = pa.schema", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
        for name, source in zip(schemas[::2], schemas[1::2], strict=True):
            lines = [f"### {name.lower()}.parquet", "", "| column | type | |", "|---|---|---|"]
            for column, kind, comment in re.findall(r'\("(\w+)", ([\w.()]+)\),(?:  # (.*))?', source):
                lines.append(f"| `{column}` | `{kind.removeprefix('pa.').lower()}` | {comment} |")
            parts.append("\n".join(lines))
    return "\n\n".join(parts)
