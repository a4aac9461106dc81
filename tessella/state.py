"""State: what a decoder remembers between steps, for any decoder."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class State:
    """Three kinds of memory, so that a search can reorder hypotheses without knowing what they are made of.

    A state of b sentences serves b*w rows: rows i*w .. i*w + w-1 are the hypotheses of sentence i.
    """

    memory: dict[str, Tensor] = field(default_factory=dict)
    """Sentence first (b ...): the same for all hypotheses of a sentence, never changed by a step."""
    past: dict[str, Tensor] = field(default_factory=dict)
    """Hypothesis first (b*w ...): what each step adds to or replaces."""
    length: int = 0
    """Tokens read so far."""

    def after(self, past: dict[str, Tensor], tokens: int) -> State:
        """The state once `tokens` more tokens were read."""
        return State(self.memory, past, self.length + tokens)

    def select(self, rows: Tensor, sentences: Tensor | None = None) -> State:
        """Hypotheses `rows` (long, indices into b*w) and, if given, only these sentences."""
        past = {name: value.index_select(0, rows) for name, value in self.past.items()}
        if sentences is None:
            return State(self.memory, past, self.length)
        memory = {name: value.index_select(0, sentences) for name, value in self.memory.items()}
        return State(memory, past, self.length)
