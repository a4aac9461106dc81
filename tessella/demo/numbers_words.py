"""Numbers words: sentences about what of the unseen was read, made of the measured numbers and of nothing else."""

from __future__ import annotations

import numpy as np

from tessella.demo.numbers import ALL, LANGUAGES, name
from tessella.demo.numbers_reading import GROUPS, Reading

CHANCE = 1 / ALL
FAR = 10
"""Times chance from which on reading is called that."""
APART = 0.2
"""A difference between shares of groups that is worth a word."""


def unseen_told(reading: Reading) -> str:
    """Paragraphs: how the unseen numbers were read, by group, and what that says."""
    found = {language: reading.groups(language) for language in LANGUAGES}
    shares: dict[str, float] = {}
    lines = []
    for group, numbers in GROUPS.items():
        if count := int(np.isin(reading.held, numbers).sum()):
            right = {language: groups[group].mean() for language, groups in found.items()}
            told = " and ".join(f"{share:.0%} in {language}" for language, share in right.items())
            lines.append(f"Of pictures of the {count} unseen numbers from {group}, {told} are read right.")
            shares[group] = float(np.mean(list(right.values())))
    least = min(float(reading.right(language)[reading.new].mean()) for language in LANGUAGES)
    if least >= FAR * CHANCE:
        said = f"Numbers that were never shown are read, at least {least / CHANCE:.0f} times as often as by chance"
    else:
        said = f"Numbers that were never shown are hardly read: {least:.0%}"
    best, worst = max(shares, key=shares.__getitem__), min(shares, key=shares.__getitem__)
    if shares[best] - shares[worst] >= APART:
        said += f"; most often from {best}, least often from {worst}"
    return f"{' '.join(lines)}\n\n**{said}.**"


def mistakes_told(reading: Reading) -> str:
    """A paragraph: what unseen numbers are taken for where they are read wrong."""
    return " ".join(_mistaken(reading, language) for language in LANGUAGES)


def _mistaken(reading: Reading, language: str) -> str:
    answers, values = reading.answers(language), reading.values
    wrong = reading.new & (answers != values)
    if not wrong.any():
        return f"In {language} none of them is read wrong."
    half = ((answers // 10 == values // 10) | (answers % 10 == values % 10))[wrong].mean()
    known = ~np.isin(answers[wrong], reading.held)
    return (
        f"Of {wrong.sum():,} wrong answers in {language}, {half:.0%} have one of the two digits right, and "
        f"{known.mean():.0%} name a number that was learned from."
    )


def translated_told(reading: Reading) -> str:
    """A paragraph: whether names of unseen numbers lie by their translations."""
    first, second = LANGUAGES
    there, back = reading.translated(first, second), reading.translated(second, first)
    return (
        f"No training step shows both names of a picture, and none shows the names of the {len(there)} unseen numbers "
        f"at all. Of all {ALL} {second} names, the one nearest to an unseen number's {first} name is its translation "
        f"for {there.sum()} of the {len(there)}; the other way round, for {back.sum()}. Chance is "
        f"{len(there) * CHANCE:.1f}. {_examples(reading)}"
    )


def _examples(reading: Reading, count: int = 3) -> str:
    """The nearest names of a few unseen numbers, right or not, evenly from all."""
    first, second = LANGUAGES
    told = []
    for number in reading.held[:: max(1, len(reading.held) // count)][:count].tolist():
        nearest = int((reading.words[second] @ reading.words[first][number]).argmax())
        rather = "" if nearest == number else f" (and not {name(number, second)})"
        told.append(f"{name(number, first)}: {name(nearest, second)}{rather}")
    return f"For instance, {'; '.join(told)}."
