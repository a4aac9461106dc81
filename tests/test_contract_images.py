"""The contract every model of images keeps; adding a model adds no test file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessella.attention import Attend, watch
from tessella.errors import InputError
from tessella.models import Encoder, Model
from tessella.objectives import Classify, Distill
from tessella.spec import from_dict, to_dict
from tessella.zoo.catalog import CLASSIFIERS, channels, model_spec
from tessella.zoo.counts import multiply_adds, parameters

SMALL = [name for name, card in CLASSIFIERS.items() if card.size <= 32]
"""Those small enough to compute with in a test; of the others, what no computing shows."""
CLASSES = 7


@pytest.fixture(params=SMALL)
def name(request) -> str:
    return request.param


def made(name: str, dtype: torch.dtype = torch.float32):
    torch.manual_seed(1)
    return model_spec(name, {"classes": CLASSES}).build().to(dtype)


def images(name: str, dtype: torch.dtype = torch.float32, b: int = 3, more: int = 0):
    torch.manual_seed(2)
    spec, side = model_spec(name, {"classes": CLASSES}), CLASSIFIERS[name].size
    return torch.randn(b, channels(spec), side + more, side, dtype=dtype)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_it_survives_json(name):
    spec = model_spec(name, {})
    assert from_dict(json.loads(json.dumps(to_dict(spec))), Model) == spec


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_model_takes_classes_and_an_image_size(name):
    few, many = (parameters(model_spec(name, {"classes": k})) for k in (2, 3))
    assert many > few
    assert isinstance(model_spec(name, {"image_size": CLASSIFIERS[name].size * 2}), Encoder)


def test_every_parameter_learns(name):
    model, x = made(name).train(), images(name)
    batch = {"image": x, "label": torch.tensor([0, 3, 6]), "teacher": torch.randn(3, CLASSES)}
    for objective in (Classify(), Distill()):
        model.zero_grad()
        objective(model, batch)["loss"].backward()
    deaf = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    # Adding the same to all keys leaves softmax as it was: their bias has no gradient but rounding. And of CvT's last
    # block only the class token is read, which no convolution has touched: that of its queries is for nothing.
    last = max((n for n, _ in model.named_parameters() if "near_q" in n), default="none").rpartition(".near_q")[0]
    assert not [n for n in deaf if not n.endswith(".k.bias") and not n.startswith(f"{last}.near_q")]


def test_watched_equals_unwatched_and_rows_sum_to_one(name):
    model, x = made(name).eval(), images(name)
    plain = model(x)
    with watch(model) as seen:
        watched = model(x)
    torch.testing.assert_close(watched, plain, atol=1e-5, rtol=1e-5)
    assert len(seen) == sum(isinstance(m, Attend) for m in model.modules())
    for weights in seen.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), atol=1e-5, rtol=0)
    assert all(m.seen is None for m in model.modules() if isinstance(m, Attend)), "watching leaves nothing behind"


def test_an_image_does_not_depend_on_its_batch(name):
    model, x = made(name, torch.float64).eval(), images(name, torch.float64)
    torch.testing.assert_close(model(x[1:2]), model(x)[1:2], atol=1e-10, rtol=1e-8)


def test_saved_equals_loaded(name, tmp_path):
    model, other = made(name).eval(), model_spec(name, {"classes": CLASSES}).build().eval()
    save_file({n: t.contiguous().clone() for n, t in model.state_dict().items()}, tmp_path / "m.safetensors")
    other.load_state_dict(load_file(tmp_path / "m.safetensors"))
    assert torch.equal(model(images(name)), other(images(name)))


def test_other_sizes_work_or_say_why_not(name):
    """16 rows more, not square; then something smaller than any patch."""
    model = made(name).eval()
    assert model(images(name, more=16)).shape == (3, CLASSES)
    try:
        out = model(torch.zeros(1, images(name).shape[1], 2, 3))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert out.shape == (1, CLASSES)


def test_what_cannot_be_built_is_one_line():
    with pytest.raises(InputError, match="'vit_base_patch16_224' cannot be so: an image of 100 x 100 pixels"):
        model_spec("vit_base", {"image_size": 100})


def test_multiply_adds_grow_with_the_image(name):
    spec, side = model_spec(name, {"classes": CLASSES}), CLASSIFIERS[name].size
    one, four = (multiply_adds(spec, (1, channels(spec), n, n)) for n in (side, 2 * side))
    assert 3.5 * one < four < 17 * one


COMPILE = """
import sys
import torch
from tessella.zoo.catalog import CLASSIFIERS, channels, model_spec
for name in sys.argv[1:]:
    spec = model_spec(name, {"classes": 5})
    model = spec.build().eval()
    x = torch.randn(2, channels(spec), CLASSIFIERS[name].size, CLASSIFIERS[name].size)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-5)
"""


def test_it_compiles():
    """In a process without shape checks, which a compiler cannot read; the smallest of each family."""
    smallest: dict[str, str] = {}
    for name in sorted(SMALL, key=lambda name: parameters(model_spec(name, {}))):
        smallest.setdefault(re.split(r"[\d_]", name)[0], name)
    environment = {**os.environ, "TESSELLA_SHAPES": "0"}
    command = [sys.executable, "-c", COMPILE, *smallest.values()]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
