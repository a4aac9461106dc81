"""Towers: two encoders into one space."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tessella.errors import InputError
from tessella.heads import Embed, last
from tessella.models import Encoder, Model, Towers
from tessella.optimizers import AdamW
from tessella.positions import Learned
from tessella.precision import CopiedWeights
from tessella.spec import from_dict, to_dict
from tessella.stems.patches import Patches, Raster
from tessella.stems.words import Words
from tessella.tokens import Tokens
from tessella.trunks.plain import Causal, Plain
from tessella.trunks.swin import Swin

PAD, END = 0, 9


def text_tower(width: int = 6, end: int | None = None) -> Encoder:
    words = Words(vocab=10, dim=16, positions=Learned(length=8), scale=1.0, dropout=0.0, pad=PAD, end=end)
    return Encoder(
        stem=words,
        trunk=Causal(dim=16, depth=2, heads=2, hidden=32, dropout=0.0, norm="pre"),
        head=Embed(dim=16, width=width, pool="last"),
    )


def image_tower(width: int = 6) -> Encoder:
    return Encoder(
        stem=Patches(dim=16, patch=4, size=(8, 8), bias=False, norm=1e-5),
        trunk=Plain(dim=16, depth=2, heads=2, hidden=32, dropout=0.0, norm="pre"),
        head=Embed(dim=16, width=width),
    )


def towers(**changes) -> Towers:
    return Towers(image=image_tower(), text=text_tower(), **changes)


def built(spec: Model):
    torch.manual_seed(0)
    return spec.build().eval()


def test_embeddings_have_length_one_and_logits_are_scaled_cosines():
    model = built(towers(scale=5.0, bias=-1.0))
    image, ids = torch.randn(3, 3, 8, 8), torch.randint(1, 9, (2, 5))
    a, b = model.embed_image(image), model.embed_text(ids)
    torch.testing.assert_close(a.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(b.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(model(image, ids), 5 * torch.cosine_similarity(a[:, None], b[None], dim=-1) - 1)


def test_later_tokens_change_nothing_of_earlier_ones():
    model = built(text_tower())
    ids = torch.randint(1, 9, (1, 6))
    other = ids.clone()
    other[:, 4:] = 10 - other[:, 4:]
    one, two = model.features(ids).x, model.features(other).x
    assert torch.equal(one[:, :4], two[:, :4])
    assert not torch.equal(one[:, 4:], two[:, 4:])


def test_padding_is_invisible():
    model = built(text_tower())
    ids = torch.tensor([[3, 4, 5]])
    padded = torch.tensor([[3, 4, 5, PAD, PAD]])
    torch.testing.assert_close(model(padded), model(ids))


def test_a_text_ends_at_its_first_end():
    model = built(text_tower(end=END))
    ids = torch.tensor([[PAD, 4, END]])  # what pads elsewhere is a word here
    longer = torch.tensor([[PAD, 4, END, PAD, END, 7]])
    torch.testing.assert_close(model(longer), model(ids))
    assert not torch.allclose(model(ids), model(torch.tensor([[1, 4, END]])))


def test_the_last_token_is_the_last_kept_one():
    x = torch.arange(12.0).reshape(2, 3, 2)
    keep = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.equal(last(Tokens(x, keep)), torch.stack([x[0, 1], x[1, 2]]))
    assert torch.equal(last(Tokens(x)), x[:, 2])


def test_any_trunk_is_a_tower():
    swin = Encoder(
        stem=Raster(dim=8, patch=2),
        trunk=Swin(dim=8, depths=(2, 2), heads=(2, 2), windows=(2, 2)),
        head=Embed(dim=16, width=6, pool="mean"),
    )
    model = built(Towers(image=swin, text=text_tower()))
    assert model(torch.randn(2, 3, 8, 8), torch.randint(1, 9, (4, 3))).shape == (2, 4)


def test_they_survive_json():
    spec = towers(bias=-10.0)
    assert from_dict(json.loads(json.dumps(to_dict(spec))), Model) == spec


def test_the_scale_never_leaves_its_bounds_and_comes_back():
    model = built(towers(scale=99.0))
    optimizer = torch.optim.SGD([model.log_scale], lr=1.0)
    for sign, bound in ((-1, 100.0), (1, 1.0)):
        for _ in range(20):
            optimizer.zero_grad()
            (sign * model.scale.log()).backward()
            optimizer.step()
            assert 1 <= model.scale.item() <= 100.001
        assert math.isclose(model.scale.item(), bound, rel_tol=1e-4)
        assert abs(model.log_scale.item() - math.log(bound)) <= 1.0, "it does not run away behind the bound"


def test_the_scale_keeps_its_digits_beside_bf16_weights():
    model = built(towers(scale=1 / 0.07)).train()
    weights = CopiedWeights(model)
    AdamW().build(weights.named)
    with weights.computing():
        assert model.image.head.project.weight.dtype == torch.bfloat16
        assert model.scale.item() == pytest.approx(1 / 0.07, rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: Towers(image=image_tower(5), text=text_tower(6)), "image.head.width is 5 but text.head.width is 6"),
        (lambda: towers(scale=200.0), "scale is 200, above the largest"),
        (lambda: Towers(image=towers(), text=text_tower()), "head gives a vector"),
    ],
)
def test_what_does_not_fit_is_one_line(wrong, told):
    with pytest.raises((InputError, ValueError), match=told):
        wrong()
