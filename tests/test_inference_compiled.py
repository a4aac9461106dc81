"""Compiled blocks: they compute what the plain model does, at every size, watched or not, and never lose a score."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_inference_vision import FAMILIES, images, strong, vit

from tessella.attention import watch
from tessella.inference import compiled as compiling
from tessella.inference.compiled import Compiled, compiled
from tessella.inference.prepare import prepare


@pytest.fixture
def programs(monkeypatch):
    """The programs made: traced by torch's compiler and run as they are, without a C++ compiler."""
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return graph

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "PROGRAM", torch.compile(compiling._run, dynamic=False, backend=backend))
    yield made
    torch._dynamo.reset()


@pytest.mark.parametrize("family", ["vit quick-gelu", "swin", "swin, padded"])
def test_the_answers_are_the_same_at_every_size(family, programs):
    model = strong(FAMILIES[family])
    fast = compiled(prepare(copy.deepcopy(model)))
    with torch.inference_mode():
        for size in (32, 32, 32, 64, 64, 32, 32):
            expected, found = model(images(size=size)), fast(images(size=size))
            assert (found - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
    assert programs


def test_blocks_of_one_shape_share_a_program_and_a_size_met_once_makes_none(programs):
    fast = compiled(prepare(strong(vit(pool="mean"))))
    assert len([m for m in fast.modules() if isinstance(m, Compiled)]) == 2
    with torch.inference_mode():
        fast(images())
        assert not programs
        fast(images())
        made = len(programs)
        fast(images(2))
    assert 0 < made == len(programs)


def test_watching_sees_the_same_maps(programs):
    model = strong(FAMILIES["swin"])
    fast = compiled(prepare(copy.deepcopy(model)))
    with torch.inference_mode():
        fast(images()), fast(images())
        with watch(model) as plain, watch(fast) as seen:
            model(images()), fast(images())
    assert len(plain) == len(seen)
    for a, b in zip(plain.values(), seen.values(), strict=True):
        assert (a - b).abs().max() < 1e-5


def test_scores_that_overflow_are_computed_as_ever(programs):
    model = strong(vit(pool="mean"))
    for block in model.trunk.blocks:
        block.attn.q.weight.data.mul_(300)
    fast = compiled(prepare(copy.deepcopy(model)))
    with torch.inference_mode():
        expected = model(images())
        block = next(m for m in fast.modules() if isinstance(m, Compiled))
        fast(images()), fast(images())
        x = model.stem(images()).x
        assert compiling.PROGRAM(block.block, x, block.attn).isnan().any()
        assert (fast(images()) - expected).abs().max() < 1e-4 * expected.abs().max()


CVT = """
import copy, torch
from test_inference_vision import FAMILIES, images, strong
from tessella.inference import compiled as compiling
from tessella.inference.prepare import prepare
compiling.PROGRAM = torch.compile(compiling._run, dynamic=False, backend="eager")
model = strong(FAMILIES["cvt"])
fast = compiling.compiled(prepare(copy.deepcopy(model)))
with torch.inference_mode():
    for size in (32, 32, 32, 64, 64, 32, 32):
        expected, found = model(images(size=size)), fast(images(size=size))
        assert (found - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
"""


@pytest.mark.slow
def test_convolutions_are_compiled_as_well():
    """In a process of its own: the checks of shapes in tests are nothing that torch's compiler can read here."""
    subprocess.run([sys.executable, "-c", CVT], check=True, cwd=Path(__file__).parent)


@pytest.mark.slow
def test_with_the_real_compiler():
    model = strong(FAMILIES["swin, padded"])
    fast = compiled(prepare(copy.deepcopy(model), "bfloat16"))
    plain = copy.deepcopy(model).to(torch.bfloat16)
    with torch.inference_mode():
        expected = model(images())
        for _ in range(3):
            found = fast(images().bfloat16()).float()
        error = (plain(images().bfloat16()).float() - expected).pow(2).mean().sqrt()
    assert (found - expected).pow(2).mean().sqrt() < 1.25 * error
