"""Repeats: n-grams that come again, kept out of a search, and found in what was written."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tessella.state import State

Step = Callable[[Tensor, State], tuple[Tensor, State]]
WRITTEN = "written"
"""Where a state keeps the ids that led to it: a search reorders them with all else that belongs to a hypothesis."""
LONGEST = 4
"""Words of the longest phrase whose immediate repetition is looked for."""


def unrepeated(step: Step, n: int) -> Step:
    """The step of a search in which no hypothesis has the same n ids in a row twice (Paulus et al. 2018, sec. 2.5).

    Whatever would complete an n-gram that the hypothesis has already gets no probability; the end of a sentence always
    may come. ``n`` is at least 1.
    """

    def blocking(ids: Tensor, state: State) -> tuple[Tensor, State]:
        past = dict(state.past)
        before = past.pop(WRITTEN, None)
        written = ids[:, :0] if before is None else torch.cat([before, ids], dim=1)  # what it starts from is no word
        logits, after = step(ids, State(state.memory, past, state.length))
        if written.shape[1] >= n:
            rows, words = completions(written, n)
            logits[rows, words] = float("-inf")
        return logits, State(after.memory, {**after.past, WRITTEN: written}, after.length)

    return blocking


def completions(written: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Ids r t -> (row, id) of every id which at the end of its row would complete an n-gram that is in the row."""
    grams = written.unfold(1, n, 1)
    begun = written[:, None, written.shape[1] - n + 1 :]
    rows, places = (grams[..., :-1] == begun).all(dim=-1).nonzero(as_tuple=True)
    return rows, grams[rows, places, -1]


def degenerate(text: str) -> bool:
    """Whether a text is empty, or says one to four words twice in a row, as search does when a model is lost."""
    words = text.lower().split()
    return not words or any(
        words[i : i + n] == words[i + n : i + 2 * n]
        for n in range(1, LONGEST + 1)
        for i in range(len(words) - 2 * n + 1)
    )
