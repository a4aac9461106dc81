"""A spectrogram as a picture: every moment of every band a token, whatever else is in the batch."""

from __future__ import annotations

import torch

from tessella.heads import Classes
from tessella.models import Encoder
from tessella.stems.encoded import Encoded
from tessella.stems.frames import Spectrogram
from tessella.trunks.convnet import Entry, ResNet


def sound(rows: int, behind: int = 0) -> torch.Tensor:
    made = torch.randn(1, rows, 8)
    return torch.cat([made, torch.full((1, behind, 8), torch.nan)], dim=1)


def test_every_place_is_a_token():
    given = sound(5)
    tokens = Spectrogram(length=6).build()(given)
    assert tokens.grid == (6, 8)
    assert torch.equal(tokens.x[0, : 5 * 8, 0], given.flatten())
    assert not tokens.x[0, 5 * 8 :].any()


def test_padding_is_invisible_and_what_is_too_long_loses_its_end():
    stem = Spectrogram(length=6).build()
    given = sound(5)
    padded = torch.cat([given, torch.full((1, 9, 8), torch.nan)], dim=1)
    assert torch.equal(stem(given).x, stem(padded).x)
    long = sound(9)
    assert torch.equal(stem(long).x, stem(long[:, :6]).x)


def test_a_convolutional_trunk_reads_it():
    trunk = ResNet(dim=1, entry=Entry(width=4, size=3, stride=2, pool="none"), depths=(1, 1), widths=(8, 16), first=2)
    made = Encoded(dim=12, stem=Spectrogram(length=16), trunk=trunk)
    tokens = made.build().eval()(sound(11, behind=4))
    assert tokens.x.shape == (1, 2, 12)
    whole = Encoder(stem=Spectrogram(length=16), trunk=trunk, head=Classes(dim=16, classes=3, pool="mean"))
    assert whole.build()(sound(11)).shape == (1, 3)
