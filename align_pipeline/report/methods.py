"""A paragraph on methods for a paper, with citations, from what the runs recorded of themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from align_pipeline.config.lang import known_languages
from align_pipeline.config.pivots import ENGLISH_ONLY
from align_pipeline.config.representations import REPRESENTATIONS
from align_pipeline.page.numbers import task_name

_BIB = Path(__file__).with_name("references.bib")
_TASKS = {
    "belebele": "bandarkar2024belebele",
    "xcopa": "ponti2020xcopa",
    "xstorycloze": "lin2022xglm",
    "flores": "nllb2022",
}
_METRICS = {"dali": "DALI", "dali_strong": "DALI_S", "mexa_t": "MEXA_T", "mexa": "MEXA"}


def paragraph(summaries: Sequence[Mapping[str, Any]]) -> str:
    """The paragraph in plain text with ``\\citep{key}``; "" if no run recorded its config.

    Args:
        summaries: contents of ``summary.json``, one per run; those of which the report shows no row are left out: they
            have no data or no language.
    """
    shown = [one for one in summaries if one.get("data") and one.get("languages")]
    known = [one for one in shown if isinstance(one.get("config"), Mapping) and one["config"].get("model")]
    return " ".join(_sentences(known)) if known else ""


def bibliography(text: str) -> str:
    """The BibTeX entries that a text cites, in the order of the file."""
    cited = {key for keys in re.findall(r"\\citep\{([^}]*)\}", text) for key in keys.split(",")}
    entries = re.finditer(r"^@\w+\{([^,]+),.*?^\}\n", _BIB.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return "".join(entry[0] for entry in entries if entry[1] in cited)


def _sentences(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    models = dict.fromkeys(_model(run) for run in runs)
    yield f"We ran {_listed(list(models))} with align_pipeline {_version(runs, 'align_pipeline')}."
    for task in dict.fromkeys(run["task"] for run in runs):
        yield _task([run for run in runs if run["task"] == task])
    metrics = list(dict.fromkeys(name for run in runs for name in run["config"].get("metrics") or {}))
    if metrics:
        names = _listed([_METRICS.get(name, name) for name in metrics])
        cited = ["ravisankar2026map"] if {"dali", "dali_strong", "mexa_t"} & set(metrics) else []
        cited += ["kargaran2025mexa"] if {"mexa", "mexa_t"} & set(metrics) else []
        yield (
            f"Alignment with English was measured by {names}{_cite(cited)} at {_states(runs)}, the state after the "
            "final norm being left out of maxima, and compared with that of mismatched items."
        )
        yield (
            "Tests over items permute whole clusters of dependent items, and p values over layers are adjusted by "
            f"max-T{_cite(['westfall1993resampling'])}; p values over questions and languages by Holm's method."
        )
    yield from _more(runs)
    patched = list(dict.fromkeys(_patch(run, len(models) > 1) for run in runs if _conditions(run)))
    if patched:
        study = _cite(["ravisankar2026map"])
        yield f"Activations of a language's run were replaced{study}: {'; '.join(patched)}."
    tuned = list(dict.fromkeys(_tuned(run["tuned"]) for run in runs if run.get("tuned")))
    if tuned:
        method = _cite(["liu2025middle"]) if any("midalign" in text for text in tuned) else ""
        yield f"Tuned models{method}: {'; '.join(tuned)}."
    versions = _listed([f"{name} {_version(runs, name)}" for name in ("torch", "transformers", "datasets")])
    yield f"Software: {versions}{_cite(['wolf2020transformers'])}."


def _model(run: Mapping[str, Any]) -> str:
    config = run["config"]["model"]
    named = Path(str(config["path"])).name if str(config["path"]).startswith(("/", ".", "~")) else config["path"]
    revision = _revision(config.get("revision"), [run["commit"]] if run.get("commit") else [])
    chat = ", chat template" if config.get("chat_template") else ""
    return f"{run['model']} ({named}{revision}, {config['dtype']}{chat})"


def _revision(asked: str | None, commits: Sequence[str]) -> str:
    """What was asked for and the commits that it was; "" where neither is known."""
    words = [f"revision {asked}" if asked else "", *(f"commit {one[:8]}" for one in commits if one != asked)]
    return "".join(f", {word}" for word in words if word)


def _states(runs: Sequence[Mapping[str, Any]]) -> str:
    """The hidden states that the runs reported."""
    asked = [layers if isinstance(layers := run["config"].get("layers"), list) else None for run in runs]
    if None in asked:
        return "every hidden state"
    layers = sorted({layer for one in asked for layer in one or ()})
    return f"hidden state{'s' if len(layers) > 1 else ''} {_listed([str(layer) for layer in layers])}"


def _task(runs: Sequence[Mapping[str, Any]]) -> str:
    config, data = runs[0]["config"]["task"], runs[0]["data"]
    name = runs[0]["task"]
    languages = {row["language"] for run in runs for row in run["languages"]}
    counts = sorted({row["n"] for run in runs for row in run["languages"]})
    items = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    shots = _listed([f"{k}-shot" for k in sorted({run["config"]["task"].get("num_fewshot", 0) for run in runs})])
    revision = _revision(data.get("revision"), data.get("commits", ()))
    cited = _cite([_TASKS[name]] if name in _TASKS else [])
    how = (
        f", {shots}, translated greedily and scored with sacrebleu{_cite(['post2018sacrebleu'])}"
        if name == "flores"
        else f", {shots}, answered by the option of the highest summed log-likelihood{_cite(['gao2024harness'])}"
    )
    if not any(run["config"].get("evaluate", True) for run in runs):
        how = ""
    count = len(languages)
    return (
        f"{task_name(name)}{cited} ({data.get('dataset')}, split {config.get('split')}{revision}) was used in {count} "
        f"language{'s' if count != 1 else ''} and English with {items} items per language{how}."
    )


def _more(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the runs measured besides alignment with English and answers."""
    codes = [code for code in _asked(runs, "pivot") if code not in ENGLISH_ONLY]
    if codes:
        known = known_languages()
        names = [known[code]["name"] if code in known else code for code in codes]
        every = "every language of the run" if "all" in codes else _listed(names)
        yield f"Alignment was measured in the same way with other pivots: {every}."
    kinds = _asked(runs, "representations")
    if kinds:
        names = list(REPRESENTATIONS) if "all" in kinds else kinds
        yield f"Other measures of the hidden states, each with its chance level: {_listed(names)}."
    if any(run["config"].get("logit_lens") for run in runs):
        yield "The logit lens was applied to every hidden state."


def _asked(runs: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """The values of a key that takes a name or a list of names, in all runs."""
    values = [run["config"].get(key) or [] for run in runs]
    return list(dict.fromkeys(name for one in values for name in ([one] if isinstance(one, str) else one)))


def _conditions(run: Mapping[str, Any]) -> Any:
    """What a run patched, as in its config; empty for nothing."""
    return (run["config"].get("patch") or {}).get("conditions")


def _patch(run: Mapping[str, Any], is_named: bool) -> str:
    """How a run patched; `is_named`: with the model's name."""
    config, given = run["config"]["patch"], _conditions(run)
    layers = config.get("layers")
    where = f"layers {', '.join(map(str, layers))}" if isinstance(layers, list) else f"layers: {layers}"
    wide = f", {config['window']} layers at once" if config.get("window", 1) > 1 else ""
    conditions = given if isinstance(given, str) else ", ".join(map(str, given))
    model = f" with {run['model']}" if is_named else ""
    return (
        f"in {task_name(run['task'])}{model}, component {config.get('component')} at {config.get('site')}, {where}"
        f"{wide}, conditions: {conditions}"
    )


def _tuned(tuned: Mapping[str, Any]) -> str:
    how = f"{tuned['role']}, {tuned['method']}, {tuned['steps']} steps"
    data = f"{tuned['pairs']} sentence pairs of {tuned['data']} in {_listed(list(tuned['languages']))}"
    return f"{tuned['preset']} ({how}, {data})"


def _version(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    found = sorted({str((run.get("versions") or {}).get(name, "?")) for run in runs})
    return " and ".join(found)


def _cite(keys: Sequence[str]) -> str:
    return rf" \citep{{{','.join(keys)}}}" if keys else ""


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
