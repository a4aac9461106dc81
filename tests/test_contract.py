"""The contract every translator keeps; adding a model adds no test file."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessella.attention import Attend, watch
from tessella.models import Model
from tessella.objectives import Translate
from tessella.spec import from_dict, to_dict
from tessella.zoo.catalog import CARDS, LANGUAGE, MODELS, model_spec

BIG = ("base", "big", "small")
NAMES = [name for name in MODELS if name not in {*CARDS, *LANGUAGE} and not any(size in name for size in BIG)]
VOCAB = 29


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


def made(name: str, dtype: torch.dtype = torch.float32, **options):
    return model_spec(name, {"vocab": VOCAB, **options}).build().to(dtype).eval()


def batch(seed: int = 0):
    """Three sentence pairs, the second shorter on both sides."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(4, VOCAB, (3, 7), generator=generator)
    target = torch.randint(4, VOCAB, (3, 6), generator=generator)
    source[1, 4:] = 0
    target[1, 3:] = 0
    target[:, 0] = 1
    return source, target


def test_every_parameter_learns(name):
    model = made(name).train()
    source, target = batch()
    Translate()(model, {"source": source, "target": target})["loss"].backward()
    deaf = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    # Adding the same to all keys leaves softmax as it was: their bias has no gradient but rounding.
    assert not [n for n in deaf if not n.endswith(".k.bias")]


def test_it_survives_json(name):
    spec = model_spec(name, {"vocab": VOCAB})
    assert from_dict(json.loads(json.dumps(to_dict(spec))), Model) == spec


def test_watched_equals_unwatched_and_rows_sum_to_one(name):
    model = made(name)
    source, target = batch()
    plain = model(source, target)
    with watch(model) as seen:
        watched = model(source, target)
    torch.testing.assert_close(watched, plain, atol=1e-5, rtol=1e-5)
    assert len(seen) > 0 or name in ("seq2seq_gru", "seq2seq_lstm")
    for weights in seen.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), atol=1e-5, rtol=0)
        assert (weights >= 0).all()
    assert all(m.seen is None for m in model.modules() if isinstance(m, Attend)), "watching leaves nothing behind"


def test_padding_is_invisible(name):
    model = made(name, torch.float64)
    source, target = batch()
    together = model(source, target)[1, :3]
    alone = model(source[1:2, :4], target[1:2, :3])[0]
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=1e-10)


def test_saved_equals_loaded(name, tmp_path):
    model, other = made(name), made(name)
    save_file({n: t.contiguous().clone() for n, t in model.state_dict().items()}, tmp_path / "m.safetensors")
    other.load_state_dict(load_file(tmp_path / "m.safetensors"))
    assert torch.equal(model(*batch()), other(*batch()))


def test_step_by_step_equals_teacher_forcing(name):
    model = made(name, torch.float64)
    source, target = batch()
    whole = model(source, target)
    state = model.begin(model.encode(source))
    steps = []
    for t in range(target.shape[1]):
        logits, state = model.step(target[:, t : t + 1], state)
        steps.append(logits)
    torch.testing.assert_close(torch.stack(steps, dim=1), whole, atol=1e-12, rtol=1e-10)


def test_in_two_pieces_equals_at_once(name):
    model = made(name, torch.float64)
    source, target = batch()
    state = model.begin(model.encode(source))
    first, state = model.features(target[:, :2], state)
    rest, _ = model.features(target[:, 2:], state)
    torch.testing.assert_close(model.head(torch.cat([first, rest], dim=1)), model(source, target), atol=1e-12, rtol=0)


def test_the_future_has_no_influence(name):
    model = made(name)
    source, target = batch()
    changed = target.clone()
    changed[:, 3:] = torch.randint(4, VOCAB, changed[:, 3:].shape)
    before, after = model(source, target), model(source, changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3:], after[:, 3:])


def test_hypotheses_share_a_sentence(name):
    """Rows i*w .. i*w + w-1 of a step see sentence i, as if it had been repeated."""
    model = made(name, torch.float64)
    source, _ = batch()
    rows = torch.arange(3).repeat_interleave(2)
    ids = torch.randint(4, VOCAB, (6, 1))
    shared, _ = model.step(ids, model.begin(model.encode(source)).select(rows))
    repeated, _ = model.step(ids, model.begin(model.encode(source[rows])))
    torch.testing.assert_close(shared, repeated, atol=1e-12, rtol=0)


COMPILE = """
import torch
from tessella.zoo.catalog import create
for name in ("transformer_tiny", "seq2seq_gru_additive"):
    model = create(name, vocab=29).eval()
    source, target = torch.randint(4, 29, (3, 7)), torch.randint(4, 29, (3, 6))
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(source, target), model(source, target), atol=1e-6, rtol=1e-6)
"""


def test_it_compiles():
    """In a process without shape checks, which a compiler cannot read."""
    environment = {**os.environ, "TESSELLA_SHAPES": "0"}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


EXACT = {
    ("transformer_base", 37000): 63_082_496,
    ("transformer_big", 37000): 214_245_376,
    ("transformer_tiny", 9716): 2_568_704,
}


@pytest.mark.parametrize(("name", "vocab"), EXACT)
def test_parameters_are_counted_to_the_last_one(name, vocab):
    with torch.device("meta"):
        model = model_spec(name, {"vocab": vocab}).build()
    assert sum(p.numel() for p in model.parameters()) == EXACT[name, vocab]


def test_two_final_norms_more_as_in_torch():
    for size, expected in (("base", 63_084_544), ("big", 214_249_472)):
        with torch.device("meta"):
            model = model_spec(f"transformer_{size}", {"vocab": 37000, "norm": "post+final"}).build()
        assert sum(p.numel() for p in model.parameters()) == expected


def test_separate_vocabularies_have_separate_embeddings():
    model = made("transformer_tiny", target_vocab=17)
    assert model.source.embedding.weight.shape[0] == VOCAB
    assert model.head.weight is model.target.embedding.weight
    assert model(batch()[0], torch.randint(4, 17, (3, 5))).shape == (3, 5, 17)
