"""Digits words: sentences about who reads better, made of the measured numbers and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tessella.class_scores import Difference, compare

SURE = 0.01
"""The p of McNemar's test below which a difference is called more than chance; several are looked at."""

Right = Mapping[int, np.ndarray]
"""Images learned from -> n, whether each image of the test was read right."""


def bias_told(convnet: str, conv: Right, vit: str, plain: Right) -> str:
    """Paragraphs: the convnet against the ViT at every size, and what that says of convolution's bias."""
    sizes = sorted(conv)
    gaps = {n: compare(plain[n], conv[n]) for n in sizes}
    lines = " ".join(_compared(n, vit, plain[n], convnet, conv[n]) for n in (sizes[0], sizes[-1]))
    few, many = gaps[sizes[0]], gaps[sizes[-1]]
    if not sure(few):
        said = f"With {sizes[0]:,} images, what convolution assumes makes no difference that one could be sure of."
    elif few.top1 < 0:
        said = f"With {sizes[0]:,} images the {convnet} is the worse one: here its bias is no help."
    elif many.top1 <= few.top1 / 2:
        said = (
            f"What convolution assumes is worth most where data is scarce: the gap of {points(few)} points shrinks to "
            f"{points(many)} as the {vit} finds out from the data."
        )
    elif many.top1 < few.top1:
        said = (
            f"What convolution assumes helps where data is scarce, and with {sizes[-1]:,} images still: the gap falls "
            f"from {points(few)} to {points(many)} points."
        )
    else:
        said = f"What convolution assumes helps, and with more data no less: {points(few)} points, then {points(many)}."
    return f"{lines}\n\n**{said}**"


def teacher_told(alone: str, untaught: Right, taught: str, with_teacher: Right) -> str:
    """Paragraphs: the ViT with a teacher against the same without one, at every size."""
    gaps = {n: compare(untaught[n], with_teacher[n]) for n in sorted(untaught)}
    lines = " ".join(_compared(n, alone, untaught[n], taught, with_teacher[n]) for n in gaps)
    better = [f"{n:,}" for n, gap in gaps.items() if sure(gap) and gap.top1 > 0]
    worse = [f"{n:,}" for n, gap in gaps.items() if sure(gap) and gap.top1 < 0]
    parts = []
    if better:
        parts.append(f"the teacher helps after learning from {listed(better)} images")
    if worse:
        parts.append(f"the teacher does harm after learning from {listed(worse)} images")
    said = "; ".join(parts) or "in so short a training, no help of the teacher can be told from chance"
    return f"{lines}\n\n**{said[0].upper()}{said[1:]}.**"


def _compared(n: int, base: str, without: np.ndarray, name: str, having: np.ndarray) -> str:
    """One sentence: base against name after learning from n images."""
    gap = compare(without, having)
    shares = f"With {n:,} images the {base} reads {without.mean():.1%} right and the {name} {having.mean():.1%}"
    if gap.gained == gap.lost:
        return f"{shares}: as many."
    return f"{shares}: {points(gap)} points {'more' if gap.top1 > 0 else 'fewer'}, {certain(gap)}."


def certain(gap: Difference) -> str:
    """Whether a difference is one."""
    p = f"p = {gap.p:.3f}" if gap.p >= 0.001 else "p < 0.001"
    return f"more than chance explains ({p})" if sure(gap) else f"which may be chance ({p})"


def sure(gap: Difference) -> bool:
    """Whether chance would hardly make it."""
    return gap.p < SURE


def points(gap: Difference) -> str:
    """How far apart, in points of a hundred."""
    return f"{abs(100 * gap.top1):.1f}"


def listed(words: list[str]) -> str:
    """Words as an enumeration."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
