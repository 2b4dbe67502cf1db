"""The embedded world: its data, its training text, and what its checkpoint is recorded to do."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from align_pipeline.config.paths import CONF, EMBEDDED
from align_pipeline.embedded import benchmark, events, figures, loss, optimizers, train, world
from align_pipeline.embedded.corpus import Author, CorpusConfig
from align_pipeline.embedded.grammar import CODES, NAMES, language, turkish_name

DATA = EMBEDDED / "data"
Question = tuple[str, list[str], int]  # the text, the options, which is right
Rows = list[dict[str, Any]]


def rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def belebele(row: dict[str, Any]) -> Question:
    options = [row[f"mc_answer{k}"] for k in (1, 2, 3, 4)]
    return f"{row['flores_passage']} {row['question']}", options, int(row["correct_answer_num"]) - 1


def xcopa(row: dict[str, Any]) -> Question:
    return row["premise"], [row["choice1"], row["choice2"]], row["label"]


def xstory(row: dict[str, Any]) -> Question:
    story = " ".join(row[f"input_sentence_{k}"] for k in (1, 2, 3, 4))
    return story, [row["sentence_quiz1"], row["sentence_quiz2"]], row["answer_right_ending"] - 1


READERS: list[tuple[str, Callable[[dict[str, Any]], Question]]] = [
    ("facebook/belebele/data/*.jsonl", belebele),
    ("cambridgeltl/xcopa/*/test.jsonl", xcopa),
    ("juletxara/xstory_cloze/*/eval.jsonl", xstory),
]
FILES = [pytest.param(p, read, id=str(p.relative_to(DATA))) for glob, read in READERS for p in sorted(DATA.glob(glob))]


# ---- data


def test_data_is_what_the_generator_writes(tmp_path: Path) -> None:
    benchmark.write(tmp_path)
    written = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    shipped = {p.relative_to(DATA): p.read_bytes() for p in DATA.rglob("*") if p.is_file()}
    assert written.keys() == shipped.keys()
    assert all(written[name] == shipped[name] for name in written)


def test_lexicons_have_the_same_concepts() -> None:
    def shape(value: Any) -> Any:
        return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else None

    assert all(shape(language(code).lexicon) == shape(language("eng").lexicon) for code in CODES)


@pytest.mark.parametrize(("code", "kinds"), [(code, ("things", "rooms", "objects", "foods")) for code in CODES])
def test_words_of_a_list_differ(code: str, kinds: tuple[str, ...]) -> None:
    nouns = language(code).lexicon["nouns"]
    assert all(len(set(nouns[kind].values())) == len(nouns[kind]) for kind in kinds)


@pytest.mark.parametrize(
    ("name", "case", "form"),
    [("Anna", "acc", "Anna'yı"), ("Leo", "acc", "Leo'yu"), ("Samir", "gen", "Samir'in"), ("Hugo", "gen", "Hugo'nun")],
)
def test_turkish_names(name: str, case: str, form: str) -> None:
    assert turkish_name(name, case) == form


def test_agreement() -> None:
    spanish, french = language("spa"), language("fra")
    assert events.clause(spanish, "sleep", "effect", "Anna") == "Anna estaba cansada"
    assert events.clause(spanish, "sleep", "effect", "Omar") == "Omar estaba cansado"
    assert events.clause(french, "bus", "effect", "Eva", named=False) == "Elle est arrivée en retard"
    swahili = language("swh")
    assert world.Fact("cause", "woke", "Anna", "dog").statement(swahili) == "Anna aliamka kwa sababu ya mbwa."
    assert world.Fact("cause", "woke", "Anna", "dog").question(french) == "Pourquoi Anna s'est-elle réveillée ?"
    assert world.Fact("cause", "woke", "Omar", "dog").question(french) == "Pourquoi Omar s'est-il réveillé ?"
    assert world.Fact("place", "is", "book", "kitchen").statement(swahili) == "Kitabu kiko jikoni."


@pytest.mark.parametrize(("glob", "key", "gold"), [
    ("facebook/belebele/data/*.jsonl", ("link", "question_number"), "correct_answer_num"),
    ("cambridgeltl/xcopa/*/test.jsonl", ("idx",), "label"),
    ("cambridgeltl/xcopa/*/validation.jsonl", ("idx",), "label"),
    ("juletxara/xstory_cloze/*/eval.jsonl", ("story_id",), "answer_right_ending"),
    ("juletxara/xstory_cloze/*/train.jsonl", ("story_id",), "answer_right_ending"),
    ("openlanguagedata/flores_plus/devtest/*.jsonl", ("id",), "category"),
])  # fmt: skip
def test_languages_are_parallel(glob: str, key: tuple[str, ...], gold: str) -> None:
    files = [rows(path) for path in sorted(DATA.glob(glob))]
    sides = [[(*(row[k] for k in key), row[gold], row["category"]) for row in file] for file in files]
    assert len(sides) > 1
    assert all(side == sides[0] for side in sides)
    assert len({side[:-2] for side in sides[0]}) == len(sides[0])
    assert len({side[-1] for side in sides[0]}) >= 4


@pytest.mark.parametrize(("path", "read"), FILES)
def test_items_differ_and_are_enough(path: Path, read: Callable[[dict[str, Any]], Question]) -> None:
    questions = [read(row) for row in rows(path)]
    assert len(questions) >= 200
    assert len({text for text, _, _ in questions}) == len(questions)
    assert all(len(set(options)) == len(options) for _, options, _ in questions)


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


CUES: dict[str, Callable[[str, str], float]] = {
    "longest": lambda text, option: len(option),
    "shortest": lambda text, option: -len(option),
    "most words": lambda text, option: len(option.split()),
    "fewest words": lambda text, option: -len(option.split()),
    "most overlap": lambda text, option: len(words(text) & words(option)),
    "least overlap": lambda text, option: -len(words(text) & words(option)),
    "largest share of overlap": lambda text, option: len(words(text) & words(option)) / len(words(option)),
    "smallest share of overlap": lambda text, option: -len(words(text) & words(option)) / len(words(option)),
    "first mentioned": lambda text, option: -text.find(option),
    "last mentioned": lambda text, option: text.find(option),
}


def hits(questions: list[Question], score: Callable[[str, str, int], float]) -> float:
    """Accuracy of the highest score; ties count as guesses among them."""
    total = 0.0
    for text, options, gold in questions:
        scores = [score(text, option, place) for place, option in enumerate(options)]
        best = [place for place, value in enumerate(scores) if value == max(scores)]
        total += (gold in best) / len(best)
    return total / len(questions)


@pytest.mark.parametrize(("path", "read"), FILES)
def test_no_shallow_cue(path: Path, read: Callable[[dict[str, Any]], Question]) -> None:
    questions = [read(row) for row in rows(path)]
    most = 1 / len(questions[0][1]) + 0.05
    for name, cue in CUES.items():
        assert hits(questions, lambda text, option, place, cue=cue: cue(text, option)) <= most, name  # type: ignore[misc]
    for wanted in range(len(questions[0][1])):
        assert hits(questions, lambda text, option, place, wanted=wanted: place == wanted) <= most  # type: ignore[misc]
    # What an option is, without the text: how often it is right among all, even counted on the items themselves.
    for part in (lambda option: [option], lambda option: sorted(words(option))):
        right = Counter(piece for _, options, gold in questions for piece in part(options[gold]))
        shown = Counter(piece for _, options, _ in questions for option in options for piece in part(option))

        def prior(
            text: str, option: str, place: int, part: Any = part, right: Any = right, shown: Any = shown
        ) -> float:
            pieces = part(option)
            return sum(right[piece] / shown[piece] for piece in pieces) / len(pieces)

        assert hits(questions, prior) <= most


# ---- training text


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    content = yaml.safe_load((CONF / "embedded.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def documents(recipe: dict[str, Any], count: int) -> Iterator[str]:
    return (text for _, text in islice(Author(CorpusConfig(**recipe["corpus"]), recipe["seed"]).documents(), count))


def test_training_text_has_no_tested_combination(recipe: dict[str, Any]) -> None:
    """No tested thing with its value, no tested person with what happened, in any language or verb."""
    text = "\n".join(documents(recipe, 4000))
    tested: set[str] = set()
    for code in CODES:
        lang = language(code)
        for passage in benchmark.test_passages():
            for fact in passage.facts:
                for frame in world.FACTS[fact.kind][2]:
                    tested.add(world.Fact(fact.kind, frame, fact.entity, fact.value).statement(lang))
        sizes = benchmark.SIZES
        for item in (
            *benchmark.drawn_choices("test", sizes["choices"]),
            *benchmark.drawn_choices("dev", sizes["examples"]),
            *benchmark.drawn_stories("test", sizes["stories"]),
        ):
            for side in ("cause", "effect"):
                for time in events.TIMES:
                    tested.add(lang.statement(events.clause(lang, item.event, side, item.name, time)))
    assert not [sentence for sentence in tested if sentence in text]


def test_portions_part_the_world() -> None:
    counts = Counter(world.portion(event, name) for event in events.CATEGORY for name in NAMES)
    assert set(counts) == {"test", "dev", "train"}
    assert counts["train"] > counts["test"] + counts["dev"]


def test_training_text_is_mostly_english_and_least_swahili(recipe: dict[str, Any]) -> None:
    shares = recipe["corpus"]["stages"]["all"]["languages"]
    assert max(shares, key=shares.get) == "eng"
    assert min(shares, key=shares.get) == "swh"


# ---- recipe

STAGES: dict[str, Any] = {
    "below": {"tokens": 1500, "batch": 256, "blocks": 2, "languages": {"eng": 1.0}, "kinds": {"naming": 1.0}},
    "above": {"tokens": 1500, "batch": 256, "frozen": 2, "languages": {"eng": 1.0}, "kinds": {"spelled": 1.0}},
    "all": {"batch": 512, "languages": {"eng": 0.5, "swh": 0.5}, "kinds": {"reading": 0.5, "translation": 0.5}},
}


@pytest.fixture
def small(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The recipe for a model of three narrow blocks."""
    monkeypatch.setattr(train, "POOL", 10)
    monkeypatch.setattr(loss, "COUNTED", 50)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    start = {**recipe["model"]["start"], "back": {0: [1, 3]}, "fast_pairs": 3}
    model = {**recipe["model"], **shape, "num_key_value_heads": 2, "start": start}
    return {**recipe, "model": model, "corpus": {**recipe["corpus"], "stages": STAGES}}


def trained(small: dict[str, Any], tokens: int, tokenizer: Any, **run: Any) -> tuple[Any, dict[str, float]]:
    """A model, and what its training counted."""
    torch.manual_seed(0)
    model = train.build_model(small["model"], len(tokenizer))
    options = {**small["training"], "tokens": tokens}
    recipe = train.Run("small", CorpusConfig(**small["corpus"]), options, 1, **run)
    return model, train.train(recipe, model, tokenizer)


def test_stages_run_and_train_their_blocks_alone(small: dict[str, Any]) -> None:
    """A first stage leaves the block above it as it was drawn, a second one those below; the saved model is whole."""
    tokenizer = train.build_tokenizer(CorpusConfig(**small["corpus"]), 1, vocabulary=400, documents=50)
    start = trained(small, 0, tokenizer)[0].state_dict()
    in_block = {index: {name for name in start if name.startswith(f"model.layers.{index}.")} for index in range(3)}
    for first, expected in (("below", in_block[2]), ("above", in_block[0] | in_block[1])):
        stages = {name: STAGES[name] for name in (first, "all")}
        model, _ = trained(small | {"corpus": {**small["corpus"], "stages": stages}}, 1200, tokenizer)
        assert model.config.num_hidden_layers == 3
        assert all(p.requires_grad for p in model.parameters())
        assert {name for name, value in model.state_dict().items() if torch.equal(value, start[name])} == expected


def test_a_stage_ends_with_its_skill(small: dict[str, Any]) -> None:
    """Or with its tokens; batches that were drawn before it ended do not count for the next one."""
    below = {**STAGES["below"], "tokens": 10_000, "enough": 0.9}
    author = Author(CorpusConfig(stages={"below": below, "above": STAGES["above"], "all": STAGES["all"]}), 1)
    course = train.Course(author)
    first, second, last = author.stages
    for step in range(200):
        course.after(step, first, 1, torch.tensor([True] * 3))
    assert course.name == "above"
    assert author.stage is second
    assert (course.tokens, course.right) == (0, 0.0)
    steps = math.ceil(math.log(1 - 0.9) / math.log(1 - train.SMOOTH))
    assert course.ended == [steps - 1]
    course.after(200, second, 1500, torch.tensor([False]))
    assert author.stage is last
    assert course.ended == [steps - 1, 200]


def test_answers_count_more(small: dict[str, Any]) -> None:
    """A letter, or the word in its place, counts as much as its stage says; padding does not count at all."""
    tokenizer = train.build_tokenizer(CorpusConfig(**small["corpus"]), 1, vocabulary=400, documents=50)
    weights = loss.weights_for(tokenizer, CorpusConfig(**small["corpus"]), 1, {"recall_weight": 2.0})
    ids = tokenizer("Q: Anna\nAnswer: Anna B").input_ids
    batch = torch.tensor([[*ids, -1]])
    found = weights.of(batch, weights.answers(batch), 30.0)[0].tolist()
    counted = [(tokenizer.decode([token]), weight) for token, weight in zip(ids[1:], found, strict=False)]
    place = [text for text, _ in counted].index("Answer:")
    assert [weight for _, weight in counted].count(30.0) == 2
    assert counted[place + 1][1] == counted[-1][1] == 30.0
    assert counted[-1][0] == " B"
    assert found[-1] == 0.0


def test_quizzes_do_not_give_their_answers_away(recipe: dict[str, Any]) -> None:
    """Naming the letter that was right least often so far does little better than chance."""
    author = Author(CorpusConfig(**recipe["corpus"]), 3)
    hits = total = 0
    for _ in range(800):
        letters = re.findall("Answer: ([A-D])", author.quiz(lambda: language("eng"), "eng"))
        for index, letter in enumerate(letters):
            rarest = min("ABCD", key=letters[:index].count)
            hits, total = hits + (letter == rarest), total + 1
    assert hits / total < 0.4


def test_first_heads_look_back(recipe: dict[str, Any]) -> None:
    """Before any training, and from any word: nearly all of their attention is so many tokens back."""
    torch.manual_seed(0)
    model = train.build_model(recipe["model"], 300)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = model(torch.randint(300, (4, 60)), output_attentions=True).attentions
    for block, distances in recipe["model"]["start"]["back"].items():
        for head, distance in enumerate(distances):
            assert found[block][:, head].diagonal(-distance, 1, 2).mean() > 0.8


def test_a_stopped_run_goes_on(small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "KEEP", 5)
    tokenizer = train.build_tokenizer(CorpusConfig(**small["corpus"]), 1, vocabulary=400, documents=50)
    whole, counted = trained(small, 6000, tokenizer)

    def stop(step: int) -> torch.Tensor:
        if step == 8:
            raise KeyboardInterrupt
        return torch.zeros(())

    with pytest.raises(KeyboardInterrupt):
        trained(small, 6000, tokenizer, state=tmp_path / "state", extra=stop)
    assert torch.load(tmp_path / "state", weights_only=True)["step"] == 5
    resumed, again = trained(small, 6000, tokenizer, state=tmp_path / "state")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert (again["tokens"], again["steps"]) == (counted["tokens"], counted["steps"])


@pytest.mark.parametrize("shape", [(8, 8), (32, 8), (8, 32)])
def test_updates_are_nearly_orthogonal(shape: tuple[int, int]) -> None:
    """A matrix keeps its singular vectors, and all singular values come near 1."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(drawn, full_matrices=False)
    after = left.T @ optimizers.orthogonal(left @ torch.logspace(0, -2, 8).double().diag() @ right) @ right.T
    assert torch.allclose(after, after.diagonal().diag(), atol=1e-6)
    assert after.diagonal().min() > 0.2  # from 0.01
    assert after.diagonal().max() < 2


# ---- checkpoints

CHECKPOINTS = [path.parent for path in sorted(EMBEDDED.glob(f"*/{figures.FILE}"))]


def test_everything_shipped_is_small() -> None:
    assert sum(path.stat().st_size for path in (EMBEDDED / "tiny").rglob("*")) <= 8_000_000


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: path.name)
def test_recorded_figures_are_reproduced(folder: Path) -> None:
    """On the first items of the tasks; on another machine rounding may tip an item or two."""
    recorded = json.loads((folder / figures.FILE).read_text(encoding="utf-8"))["first"]
    found = figures.measure(folder, DATA, limit=recorded["limit"], tasks=("xcopa", "xstorycloze", "belebele"))
    slack = 2.5 / recorded["limit"]
    for task, result in found.items():
        expected = recorded["tasks"][task]
        assert result["english"] == pytest.approx(expected["english"], abs=slack)
        for code, own in result["languages"].items():
            assert own["accuracy"] == pytest.approx(expected["languages"][code]["accuracy"], abs=slack)
            for metric in ("dali", "dali_strong", "mexa_t"):
                assert own[metric] == pytest.approx(expected["languages"][code][metric], abs=slack)


def test_the_page_shows_the_recorded_figures() -> None:
    found = [
        json.loads((EMBEDDED / name / figures.FILE).read_text("utf-8"))["tasks"] for name in ("tiny", "tiny_aligned")
    ]
    tasks = [model[task] for task in figures.TASKS for model in found]
    shown = [
        " ".join(line.split()) for line in (EMBEDDED.parents[1] / "docs/embedded.md").read_text("utf-8").splitlines()
    ]
    assert " ".join(["| eng |", *(f"{task['english']:.2f} |" for task in tasks)]) in shown
    for code in CODES[1:]:
        sides = [task["languages"].get(language(code).flores) for task in tasks]
        cells = [f"{side['accuracy']:.2f} ({max(side['dali']):.2f}) |" if side else "|" for side in sides]
        assert " ".join([f"| {code} |", *cells]) in shown
