"""Plain Transformer: how one trains a translator with torch alone, as the peer to compare with.

Nothing here is slow on purpose and nothing is tuned: ``torch.nn.Transformer`` with scaled embeddings, sinusoidal
positions and tied weights, ``F.cross_entropy`` with label smoothing, AdamW as it comes, bf16 autocast, batches of
sentences of similar source length.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PAD = 0


class PlainTransformer(nn.Module):
    """source b n, target b m -> logits b m v, with one matrix for both embeddings and the output."""

    def __init__(self, vocab: int, depth: int, dim: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, dim, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.body = nn.Transformer(dim, heads, depth, depth, hidden, dropout, batch_first=True)
        self.drop = nn.Dropout(dropout)
        angles = torch.arange(1024)[:, None] / 10000 ** (torch.arange(0, dim, 2) / dim)
        self.register_buffer("places", torch.stack([angles.sin(), angles.cos()], -1).flatten(1), persistent=False)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        m = target.shape[1]
        features = self.body(
            self.embed(source),
            self.embed(target),
            tgt_mask=torch.ones(m, m, dtype=torch.bool).triu(1),
            tgt_is_causal=True,
            src_key_padding_mask=source == PAD,
            tgt_key_padding_mask=target == PAD,
            memory_key_padding_mask=source == PAD,
        )
        return F.linear(features, self.embedding.weight)

    def embed(self, ids: Tensor) -> Tensor:
        return self.drop(self.embedding(ids) * math.sqrt(self.embedding.embedding_dim) + self.places[: ids.shape[1]])


class PlainTraining:
    """A PlainTransformer, its optimizer, and one step of training at a time."""

    def __init__(self, model: PlainTransformer, smoothing: float = 0.1) -> None:
        self.model, self.smoothing = model, smoothing
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.98))

    def step(self, batch: dict[str, Tensor]) -> None:
        """source b n; target b m, `bos … eos`; both padded at the right."""
        source, target = batch["source"], batch["target"]
        self.model.train()
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(source, target[:, :-1])
            labels = target[:, 1:].flatten()
            loss = F.cross_entropy(logits.flatten(0, 1), labels, ignore_index=PAD, label_smoothing=self.smoothing)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        loss.item()


def source_sorted(lengths: Sequence[tuple[int, int]], budget: int, seed: int) -> list[list[int]]:
    """Pair indices in batches of at most `budget` padded tokens, rows * (longest source + longest target).

    Sentences are sorted by source length, cut, and the batches shuffled: the usual way.
    """
    draw = random.Random(seed)
    order = list(range(len(lengths)))
    draw.shuffle(order)
    order.sort(key=lambda i: lengths[i][0])
    batches: list[list[int]] = []
    longest = [0, 0]
    for i in order:
        grown = [max(longest[0], lengths[i][0]), max(longest[1], lengths[i][1])]
        if not batches or (len(batches[-1]) + 1) * sum(grown) > budget:
            batches.append([])
            grown = list(lengths[i])
        batches[-1].append(i)
        longest = grown
    draw.shuffle(batches)
    return batches
