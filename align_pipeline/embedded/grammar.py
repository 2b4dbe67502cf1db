"""Meanings to sentences: one lexicon per language, and the agreement that its templates ask for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

LEXICON = Path(__file__).parent / "lexicon"
CODES = ("eng", "spa", "ind", "fra", "deu", "ita", "tur", "swh")

MEN = ("Omar", "Daniel", "David", "Adam", "Victor", "Samir", "Leo", "Marco", "Karim", "Oscar", "Hugo", "Bruno")
WOMEN = ("Anna", "Maria", "Sara", "Lina", "Nora", "Eva", "Mina", "Laura", "Diana", "Sofia", "Clara", "Julia")
NAMES = MEN + WOMEN

_SLOT = re.compile(r"\{(\w)(?:\.(\w+))?\}")
_GENDER = re.compile(r"\[(?:(\w):)?([^|\]]*)\|([^\]]*)\]")
_VOWELS = re.compile("[aeıioöuü]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Phrase:
    """What fills a slot of a template.

    Attributes:
        text: the words.
        agreement: what other words of the sentence take from it (a Swahili class's copula).
        feminine: gender of a person, for the templates' ``[masculine|feminine]``.
    """

    text: str
    agreement: str = ""
    feminine: bool = False


@dataclass(frozen=True)
class Language:
    """A lexicon with its templates.

    Attributes:
        code: ISO 639-3.
        lexicon: the language's file, as YAML gives it.
    """

    code: str
    lexicon: Mapping[str, Any]

    @property
    def flores(self) -> str:
        """The language's FLORES code."""
        return f"{self.code}_{self.lexicon['language']['iso_15924']}"

    def connector(self, kind: str) -> str:
        """The words for ``cause``, ``effect``, ``but`` or ``and``."""
        return str(self.lexicon["connectors"][kind])

    def noun(self, kind: str, concept: str) -> Phrase:
        """A noun in the form that its slot takes, such as a place after its preposition."""
        text, _, agreement = str(self.lexicon["nouns"][kind][concept]).partition("/")
        return Phrase(text, agreement)

    def person(self, name: str) -> Phrase:
        """Someone by name."""
        return Phrase(name, feminine=name in WOMEN)

    def pronoun(self, name: str) -> Phrase:
        """Someone already named: a pronoun, or nothing where the verb says enough."""
        masculine, _, feminine = str(self.lexicon["pronoun"]).partition("|")
        woman = name in WOMEN
        return Phrase(feminine if woman and feminine else masculine, feminine=woman)

    def fill(self, template: str, slots: Mapping[str, Phrase]) -> str:
        """A template's words, without capital and full stop."""

        def gender(match: re.Match[str]) -> str:
            return match[3] if slots[match[1] or "S"].feminine else match[2]

        def slot(match: re.Match[str]) -> str:
            phrase = slots[match[1]]
            if match[2] is None:
                return phrase.text
            return phrase.agreement if match[2] == "agr" else turkish_name(phrase.text, match[2])

        return " ".join(_SLOT.sub(slot, _GENDER.sub(gender, template)).split())

    def statement(self, words: str) -> str:
        """Words as a sentence."""
        return self.capitalised(words) + str(self.lexicon["marks"]["statement"])

    def question(self, words: str) -> str:
        """Words as a question."""
        marks = self.lexicon["marks"]
        return f"{marks['before_question']}{self.capitalised(words)}{marks['after_question']}"

    def capitalised(self, words: str) -> str:
        """The first letter in upper case, as the language has it."""
        first = "İ" if self.code == "tur" and words[0] == "i" else words[0].upper()
        return first + words[1:]


def turkish_name(name: str, case: str) -> str:
    """A name with its case suffix after an apostrophe: ``acc`` (Anna'yı), ``gen`` (Omar'ın)."""
    last = _VOWELS.findall(name)[-1].lower()
    vowel = {"a": "ı", "ı": "ı", "e": "i", "i": "i", "o": "u", "u": "u", "ö": "ü", "ü": "ü"}[last]
    open_end = _VOWELS.fullmatch(name[-1]) is not None
    if case == "acc":
        return f"{name}'{'y' if open_end else ''}{vowel}"
    if case == "gen":
        return f"{name}'{'n' if open_end else ''}{vowel}n"
    raise ValueError(f"no case {case}")


@cache
def language(code: str) -> Language:
    """The language of one lexicon file."""
    return Language(code, yaml.safe_load((LEXICON / f"{code}.yaml").read_text(encoding="utf-8")))
