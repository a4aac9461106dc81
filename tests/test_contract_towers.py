"""The contract every pair of towers keeps; adding a pair adds no test file."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessella.attention import Attend, watch
from tessella.contrast import Contrast
from tessella.inference import products
from tessella.inference.last import EndEncoder
from tessella.inference.prepare import prepare
from tessella.models import Model, Towers
from tessella.spec import from_dict, to_dict
from tessella.zoo import clip
from tessella.zoo.catalog import CARDS, model_spec
from tessella.zoo.counts import multiply_adds, parameters

NAMES = list(clip.VARIANTS)
VOCAB, LENGTH = 29, 9
TINY = {
    "vit_b32": clip.Size(clip.ViT(32, 3, 4, 8), clip.Text(24, 2, 3), 20, 32, 0.0),
    "rn50": clip.Size(clip.RN((2, 1, 1, 1), (16, 24, 32, 48), 4), clip.Text(24, 2, 3), 20, 64, 0.0),
}
"""Of each kind of OpenAI's, one that a test can compute with: name -> other numbers, the same page."""
COMPUTED = {"clip_micro": {}, "clip_small": {"norm": "layer"}, **{f"clip_{size}": {} for size in TINY}}
"""Those small enough to compute with, and options."""


@pytest.fixture(params=COMPUTED)
def name(request, monkeypatch) -> str:
    for size, numbers in TINY.items():
        monkeypatch.setitem(clip.SIZES, size, numbers)
    return request.param


def spec_of(name: str) -> Towers:
    side = TINY[name.removeprefix("clip_")].pixels if name.removeprefix("clip_") in TINY else 32
    spec = model_spec(name, {"vocab": VOCAB, "length": LENGTH, "image_size": side, **COMPUTED[name]})
    assert isinstance(spec, Towers)
    return spec


def made(name: str, dtype: torch.dtype = torch.float32):
    """With weights that hide nothing: blocks that begin as their shortcuts get a branch."""
    torch.manual_seed(1)
    model = spec_of(name).build()
    for parameter in model.parameters():
        if parameter.dim() == 1 and not parameter.any():
            torch.nn.init.normal_(parameter, 0, 0.3)
    return model.to(dtype).eval()


def pairs(name: str, b: int = 3, more: int = 0):
    """Images, and texts of which the second is shorter."""
    torch.manual_seed(2)
    side = 64 if name == "clip_rn50" else 32
    ids = torch.randint(3, VOCAB, (b, 7))
    ids[:, -1] = 2
    ids[1, 4:] = torch.tensor([2, 0, 0])
    return torch.randn(b, 3, side + more, side), ids


@pytest.mark.parametrize("name", NAMES)
def test_it_survives_json(name):
    spec = model_spec(name, {})
    assert from_dict(json.loads(json.dumps(to_dict(spec))), Model) == spec


@pytest.mark.parametrize("name", NAMES)
def test_every_pair_takes_a_vocabulary_a_length_and_an_image_size(name):
    """One more piece is one more vector, one more position too."""
    usual = {"vocab": 100, "length": 10, "image_size": 2 * CARDS[name].size, "bias": -10.0}
    spec = model_spec(name, usual)
    first, width = parameters(spec.text), spec.text.stem.dim
    assert spec.bias == -10
    for more in ({"vocab": 101}, {"length": 11}):
        assert parameters(model_spec(name, {**usual, **more}).text) == first + width


def test_every_parameter_learns(name):
    model, (image, ids) = made(name).train(), pairs(name)
    Contrast()(model, {"image": image, "text": ids, "index": torch.arange(3)})["loss"].backward()
    deaf = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    # Adding the same to all keys leaves softmax as it was: their bias has no gradient but rounding.
    assert not [n for n in deaf if not n.endswith(".k.bias")]


def test_watched_equals_unwatched_and_rows_sum_to_one(name):
    model, batch = made(name), pairs(name)
    plain = model(*batch)
    with watch(model) as seen:
        watched = model(*batch)
    torch.testing.assert_close(watched, plain, atol=1e-5, rtol=1e-5)
    assert len(seen) == sum(isinstance(m, Attend) for m in model.modules()) > 0
    for weights in seen.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), atol=1e-5, rtol=0)


def test_padding_is_invisible(name):
    model, (_, ids) = made(name, torch.float64), pairs(name)
    torch.testing.assert_close(model.text(ids)[1:2], model.text(ids[1:2, :5]), atol=1e-12, rtol=1e-10)


def test_the_end_sees_all_that_was_said(name):
    model, (_, ids) = made(name, torch.float64), pairs(name)
    before = model.text(ids[:1])
    for place in range(6):
        other = ids[:1].clone()
        other[0, place] = 3 + (other[0, place] - 2) % (VOCAB - 3)
        assert (model.text(other) - before).abs().max() > 1e-6, place


def test_a_pair_does_not_depend_on_its_batch(name):
    model, (image, ids) = made(name, torch.float64), pairs(name)
    image = image.double()
    torch.testing.assert_close(model.image(image[1:2]), model.image(image)[1:2], atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(model.text(ids[2:]), model.text(ids)[2:], atol=1e-10, rtol=1e-8)


def test_saved_equals_loaded(name, tmp_path):
    model, other, batch = made(name), spec_of(name).build().eval(), pairs(name)
    save_file({n: t.contiguous().clone() for n, t in model.state_dict().items()}, tmp_path / "m.safetensors")
    other.load_state_dict(load_file(tmp_path / "m.safetensors"))
    assert torch.equal(model(*batch), other(*batch))


def test_images_of_other_sizes_work(name):
    image, _ = pairs(name, more=32)
    assert made(name).embed_image(image).shape == (3, spec_of(name).image.head.width)


def test_multiply_adds_grow_with_image_and_text(name):
    spec = spec_of(name)
    one, four = (multiply_adds(spec.image, (1, 3, n, n)) for n in (64, 128))
    assert 3.5 * one < four < 17 * one
    short, long = (multiply_adds(spec.text, (1, n), dtype=torch.long) for n in (4, 8))
    assert 1.8 * short < long < 4 * short


int8 = pytest.param("int8", 0.1, marks=pytest.mark.skipif(not products.quantises(), reason="needs AVX-512"))


@pytest.mark.parametrize(("dtype", "far"), [("float32", 1e-5), ("bfloat16", 0.02), int8])
@torch.no_grad()
def test_prepared_is_the_same_pair(name, dtype, far):
    model, (image, ids) = made(name), pairs(name)
    plain = [model.embed_image(image), model.embed_text(ids)]
    scale = float(model.scale)
    prepared = prepare(model, dtype)
    assert isinstance(prepared.text.trunk, EndEncoder), "its last block computes no token but the end"
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    for mine, before in zip([prepared.embed_image(image.to(kind)), prepared.embed_text(ids)], plain, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - before).norm(dim=-1).max() < far
    assert float(prepared.scale) == pytest.approx(scale, rel=1e-6), "a lone number keeps its digits"
    with watch(prepared) as seen:
        watched = prepared.embed_text(ids)
    assert (watched - plain[1]).norm(dim=-1).max() < far and len(seen) > 0


COMPILE = """
import torch
from tessella.zoo import clip
from tessella.zoo.catalog import model_spec
clip.SIZES["vit_b32"] = clip.Size(clip.ViT(32, 1, 4, 8), clip.Text(24, 1, 3), 20, 32, 0.0)
clip.SIZES["rn50"] = clip.Size(clip.RN((1, 1, 1, 1), (16, 24, 32, 48), 4), clip.Text(24, 1, 3), 20, 64, 0.0)
for name, side in (("clip_vit_b32", 32), ("clip_rn50", 64)):
    model = model_spec(name, {"vocab": 30, "length": 8, "image_size": side}).build().eval()
    batch = torch.randn(2, 3, side, side), torch.randint(1, 30, (2, 5))
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(*batch), model(*batch), atol=1e-5, rtol=1e-5)
"""


def test_it_compiles():
    """In a process without shape checks, which a compiler cannot read; the smallest of each kind."""
    environment = {**os.environ, "TESSELLA_SHAPES": "0"}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
