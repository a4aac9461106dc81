"""The contract of what writes about anything but text: images seen by any family, streams fused by any scheme."""

from __future__ import annotations

import json

import pytest
import tiny_fusion
import torch

from tessella.models import EncoderDecoder, Model
from tessella.objectives import Translate
from tessella.recipes.captioning import caption, with_eye
from tessella.spec import from_dict, to_dict
from tessella.stems.words import Words
from tessella.trunks.plain import PlainDecoder

VOCAB = 19
EYES = (
    "vit_micro_patch4_32",
    "deit_micro_distilled_patch4_32",
    "swin_pico_patch2_window4_32",
    "cvt_nano",
    "resnet_micro",
)


def of_images(name: str) -> EncoderDecoder:
    """A captioner with an eye of the zoo and a small decoder."""
    model = with_eye(caption(), name, None).model
    return written(model.source, model.encoder)


def of_streams(scheme: str) -> EncoderDecoder:
    """What answers about text, image and table."""
    encoder = tiny_fusion.spec_of(scheme)
    return written(encoder.stem, encoder.trunk)


def written(source, encoder) -> EncoderDecoder:
    decoder = PlainDecoder(dim=16, depth=2, heads=2, hidden=24, dropout=0.0, norm="pre", memory=encoder.width)
    words = Words(vocab=VOCAB, dim=16, dropout=0.0)
    return EncoderDecoder(source=source, encoder=encoder, target=words, decoder=decoder, tie="target")


SPECS = {**{name: of_images(name) for name in EYES}, **{name: of_streams(name) for name in tiny_fusion.SCHEMES}}


@pytest.fixture(params=list(SPECS))
def name(request) -> str:
    return request.param


def made(name: str):
    torch.manual_seed(1)
    return SPECS[name].build().double().eval()


def batch(name: str):
    """Images of noise, or rows of every stream; and sentences, the last shorter."""
    drawn = torch.Generator().manual_seed(3)
    if name in EYES:
        source = torch.randn(4, 3, 32, 32, generator=drawn, dtype=torch.float64)
    else:
        source = tiny_fusion.rows(("text", "image", "table"))
    target = torch.randint(4, VOCAB, (4, 6), generator=drawn)
    target[:, 0], target[-1, 4:] = 1, 0
    return source, target


def test_it_survives_json(name):
    assert from_dict(json.loads(json.dumps(to_dict(SPECS[name]))), Model) == SPECS[name]


def test_word_by_word_is_what_is_read_at_once(name):
    """Also where two hypotheses share the memory of one row."""
    model, (source, target) = made(name), batch(name)
    with torch.no_grad():
        whole = model(source, target)
        state = model.begin(model.encode(source))
        target = target.repeat_interleave(2, dim=0)
        for t in range(target.shape[1]):
            logits, state = model.step(target[:, t : t + 1], state)
            assert torch.allclose(logits, whole[:, t].repeat_interleave(2, dim=0), atol=1e-9)


def test_every_parameter_learns(name):
    model, (source, target) = made(name).train(), batch(name)
    Translate()(model, {"source": source, "target": target})["loss"].backward()
    deaf = {n for n, p in model.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())}
    # The same added to all keys leaves a softmax as it was; what stands for an absent stream learns where one is.
    assert not {n for n in deaf if not n.endswith((".k.bias", "near_k.conv.weight")) and "absent" not in n}


def test_words_depend_on_the_source(name):
    """Another image, or another row, changes every word; words that come later change none before them."""
    model, (source, target) = made(name), batch(name)
    with torch.no_grad():
        first = model(source, target)
        turned = {k: v.flip(0) for k, v in source.items()} if isinstance(source, dict) else source.flip(0)
        assert (model(turned, target) - first).abs().amax(dim=-1).min() > 1e-9
        later = target.clone()
        later[:, 3:] = 5
        assert torch.equal(model(source, later)[:, :3], first[:, :3])
