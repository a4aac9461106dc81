"""Names words: sentences about what two damaged streams are worth together, made of the measured numbers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tessella.class_scores import compare
from tessella.demo.digits_words import certain, listed, points, sure
from tessella.demo.names_looks import Habit

Right = Mapping[str, np.ndarray]
"""System -> n, whether each row was read right."""
NEAR = 0.02
"""Shares of right rows that lie no further apart are called as good."""


def fused_told(alone: Right, fused: Right) -> str:
    """Paragraphs: each fusion against the better one of the streams alone, and what is read that neither reads."""
    best = max(alone, key=lambda name: alone[name].mean())
    lines = []
    better = []
    for name, right in fused.items():
        gap = compare(alone[best], right)
        more = "more" if gap.top1 > 0 else "fewer"
        lines.append(f"With {name} it is {right.mean():.1%}: {points(gap)} points {more}, {certain(gap)}.")
        better += [name] if sure(gap) and gap.top1 > 0 else []
    neither = ~np.any(list(alone.values()), axis=0)
    if better:
        said = f"{listed(better)} read{'s' * (len(better) == 1)} more from both than either tells alone"
    else:
        said = "In so short a training, both together are worth no more than one of them that one could be sure of"
    if neither.any():
        shares = listed([f"{right[neither].mean():.0%} ({name})" for name, right in fused.items()])
        said += f"; of the {neither.sum()} rows that neither reads alone, {shares} are right"
    return f"The {best} reads {alone[best].mean():.1%} right. {' '.join(lines)}\n\n**{said[0].upper()}{said[1:]}.**"


def multiplied_told(multiplied: np.ndarray, fused: Right) -> str:
    """A paragraph: what the two systems say together without ever having learned so, and fusions beside that."""
    told = (
        "How a digit was damaged says nothing about how its name was, so that one need not learn fusion here: the "
        "chances that the two give alone may be multiplied. (In other data, streams depend on each other, and what one "
        f"means is seen in the other only.) Multiplied, they read {multiplied.mean():.1%} right. "
    )
    return told + " ".join(_beside(name, right, multiplied) for name, right in fused.items())


def _beside(name: str, right: np.ndarray, multiplied: np.ndarray) -> str:
    gap = compare(multiplied, right)
    if abs(gap.top1) <= NEAR and not sure(gap):
        return f"Having learned from examples, {name} is as good."
    if gap.top1 < 0:
        return f"Having learned from examples, {name} is {points(gap)} points short of that, {certain(gap)}."
    return f"Having learned from examples, {name} is {points(gap)} points ahead of that, {certain(gap)}."


def missing_told(alone: Right, dropped: Mapping[str, Right], undropped: Right) -> str:
    """Paragraphs: fusions that read one stream only, against the system that never had another.

    alone: stream -> its system. dropped: fusion -> stream that is left -> it. undropped: the same of a fusion of
    the first one's scheme for which nothing was missing in training.
    """
    first = next(iter(dropped))
    lines, held = [], []
    for stream, own in alone.items():
        shares = listed([f"{runs[stream].mean():.1%} ({name})" for name, runs in dropped.items()])
        lines.append(
            f"With the {stream} left, they read {shares}; a system of its own for the {stream} reads {own.mean():.1%}, "
            f"and the {first} that always had both in training {undropped[stream].mean():.1%}."
        )
        held.append(float(dropped[first][stream].mean() - undropped[stream].mean()))
    gains = listed(
        [f"{100 * gain:+.1f} points with the {stream} left" for stream, gain in zip(alone, held, strict=True)]
    )
    if min(held) > NEAR:
        said = f"What had to do without a stream in training can do without it later: {gains} ({first})"
    else:
        said = f"What it was worth to do without a stream in training: {gains} ({first})"
    return f"{' '.join(lines)}\n\n**{said}.**"


def habits_told(name: str, blocks: Sequence[Habit], added: Mapping[str, float]) -> str:
    """A paragraph: how much of its attention each gives to the other, and what the two add to the answers."""
    total = sum(added.values())
    shares = listed([f"the {one} adds {share:.1f} ({share / total:.0%})" for one, share in added.items()])
    rests = f"What is seen makes its answers {total:.1f} likelier in log-odds; to that {shares}."
    return f"**{name}.** {rests} {' '.join(map(_block_told, blocks))}"


def _block_told(block: Habit) -> str:
    first, second = block.mass
    if not block.mass[first][first]:
        return f"In the block “{block.name}”, none looks at itself."
    return (
        f"In the block “{block.name}”, the {first} gives {block.mass[first][second]:.0%} of its attention to the "
        f"{second}, which has {block.even[second]:.0%} of the tokens, and the {second} gives "
        f"{block.mass[second][first]:.0%} of its own to the {first}."
    )
