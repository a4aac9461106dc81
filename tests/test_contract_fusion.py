"""The contract every fusion scheme keeps, over streams of every kind; adding either adds no test file."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_fusion import SCHEMES, built, lacking, rows, spec_of

from tessella.attention import Attend, watch
from tessella.inference import products
from tessella.inference.prepare import prepare
from tessella.models import EncoderDecoder, Model
from tessella.objectives import Classify, Translate
from tessella.spec import from_dict, to_dict
from tessella.stems.words import Words
from tessella.trunks.plain import PlainDecoder

SETS = {
    "text": ("text",),
    "text, image": ("text", "image"),
    "image, table": ("image", "table"),
    "sound, clip": ("sound", "clip"),
    "all five": ("text", "image", "table", "sound", "clip"),
}
ALONE = [kind for kind in SCHEMES if not kind.startswith("cross")]
CASES = [(kind, names) for names in SETS.values() for kind in (SCHEMES if len(names) > 1 else ALONE)]
every_case = pytest.mark.parametrize(
    ("kind", "names"), [pytest.param(*case, id=f"{case[0]}-{'+'.join(case[1])}") for case in CASES]
)
LACKS = {
    "text": [1, 0, 1, 1],
    "image": [1, 1, 0, 1],
    "table": [0, 1, 1, 1],
    "sound": [1, 1, 1, 0],
    "clip": [1, 1, 0, 1],
}


def some_lacking(names, dtype: torch.dtype = torch.float64):
    """Rows of which each lacks some stream, if there are two."""
    there = {name: LACKS[name] for name in names} if len(names) > 1 else {}
    return lacking(rows(names, dtype=dtype), **there)


def learns(parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.isfinite().all()) and bool(parameter.grad.any())


@every_case
def test_every_parameter_learns(kind, names):
    model = built(spec_of(kind, names)).train()
    for part in model.modules():
        if hasattr(part, "rates"):  # an unseen value and a missing cell are rare, and must be met here
            part.rates = (0.3, 0.3)
    Classify()(model, {"source": some_lacking(names), "label": torch.arange(4)})["loss"].backward()
    deaf = [n for n, p in model.named_parameters() if p.numel() and not learns(p)]
    # Adding the same to all keys leaves softmax as it was: their bias has no gradient but rounding.
    deaf = [n for n in deaf if not n.endswith(".k.bias")]
    assert deaf == (["stem.absent"] if len(names) == 1 else []), "a lone stream is never absent"


@every_case
def test_it_survives_json(kind, names):
    spec = spec_of(kind, names, drop=0.1)
    assert from_dict(json.loads(json.dumps(to_dict(spec))), Model) == spec


@every_case
@torch.no_grad()
def test_watched_equals_unwatched_and_rows_sum_to_one(kind, names):
    model, batch = built(spec_of(kind, names)), some_lacking(names)
    plain = model(batch)
    with watch(model) as seen:
        watched = model(batch)
    torch.testing.assert_close(watched, plain, atol=1e-5, rtol=1e-5)
    assert len(seen) == sum(isinstance(m, Attend) for m in model.modules()) > 0
    for weights in seen.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), atol=1e-5, rtol=0)
    assert all(m.seen is None for m in model.modules() if isinstance(m, Attend)), "watching leaves nothing behind"


@every_case
@torch.no_grad()
def test_padding_is_invisible(kind, names):
    """The second row, and the same without what fills it up."""
    model, batch = built(spec_of(kind, names)), rows(names)
    short = {"text": 3, "sound": 5, "clip": 2}
    alone = {name: x[1:2, : short.get(name)] for name, x in batch.items()}
    near = 1e-6 if kind == "early-sum" else 1e-12
    torch.testing.assert_close(model(alone), model(batch)[1:2], atol=near, rtol=near)


@every_case
@torch.no_grad()
def test_saved_equals_loaded(kind, names, tmp_path):
    model, other, batch = built(spec_of(kind, names)), spec_of(kind, names).build().double().eval(), some_lacking(names)
    save_file({n: t.contiguous().clone() for n, t in model.state_dict().items()}, tmp_path / "m.safetensors")
    other.load_state_dict(load_file(tmp_path / "m.safetensors"))
    assert torch.equal(model(batch), other(batch))


# Prepared for inference.

CLOSE = {"float32": 1e-5, "bfloat16": 0.1, "int8": 0.1}
"""How far answers may lie from those in fp32, by their standard deviation."""
int8 = pytest.param("int8", marks=pytest.mark.skipif(not products.quantises(), reason="needs AVX-512"))
every_type = pytest.mark.parametrize("dtype", ["float32", "bfloat16", int8])


def strong(kind, names):
    """In float32, with answers that differ from row to row."""
    model = built(spec_of(kind, names), torch.float32)
    torch.nn.init.normal_(model.head.scores.weight, 0, 0.5)
    return model


def typed(batch, dtype: str):
    """As a model in bf16 takes it; the numbers of a table, among them those of categories, stay as they are."""
    if dtype != "bfloat16":
        return batch
    return {name: x if name == "table" or not x.is_floating_point() else x.bfloat16() for name, x in batch.items()}


@every_type
@every_case
@torch.inference_mode()
def test_prepared_is_the_same_model(kind, names, dtype):
    model = strong(kind, names)
    fast = prepare(copy.deepcopy(model), dtype)
    for batch in (rows(names, dtype=torch.float32), some_lacking(names, torch.float32)):
        expected, found = model(batch), fast(typed(batch, dtype)).float()
        assert (found - expected).pow(2).mean().sqrt() < CLOSE[dtype] * expected.std()
        assert fast.features(typed(batch, dtype)).spans == model.features(batch).spans
    with watch(model) as plain:
        model(batch)
    with watch(fast) as seen:
        during = fast(typed(batch, dtype)).float()
    assert list(plain) == list(seen)
    assert all((plain[n] - seen[n]).abs().max() < (1e-5 if dtype == "float32" else 0.15) for n in plain)
    assert (during - found).pow(2).mean().sqrt() < CLOSE[dtype] * expected.std()


@pytest.mark.parametrize("kind", SCHEMES)
@torch.inference_mode()
def test_what_a_prepared_model_does_not_have_has_no_influence(kind):
    fast = prepare(strong(kind, ("text", "image", "table")))
    batch = lacking(rows(("text", "image", "table"), dtype=torch.float32), image=[1, 0, 1, 1])
    before = fast(batch)
    batch["image"][1] = torch.nan
    assert torch.equal(fast(batch), before)


# Words as answers.


@pytest.mark.parametrize("kind", SCHEMES)
def test_a_scheme_is_the_encoder_of_a_decoder(kind):
    """Open answers: teacher forced and word by word are the same, with rows that lack streams."""
    encoder = spec_of(kind)
    decoder = PlainDecoder(dim=16, depth=1, heads=2, hidden=24, dropout=0.0, memory=encoder.trunk.width)
    words = Words(vocab=19, dim=16, dropout=0.0)
    spec = EncoderDecoder(source=encoder.stem, encoder=encoder.trunk, target=words, decoder=decoder, tie="target")
    assert from_dict(json.loads(json.dumps(to_dict(spec))), Model) == spec
    model, batch = built(spec), some_lacking(("text", "image", "table"))
    target = torch.randint(1, 19, (4, 5))
    with torch.no_grad():
        whole, state, steps = model(batch, target), model.begin(model.encode(batch)), []
        for t in range(5):
            logits, state = model.step(target[:, t : t + 1], state)
            steps.append(logits)
    torch.testing.assert_close(torch.stack(steps, dim=1), whole, atol=1e-12, rtol=1e-10)
    Translate()(model, {"source": batch, "target": target})["loss"].backward()
    deaf = [n for n, p in model.named_parameters() if p.numel() and not learns(p)]
    # Rare columns aside (an unseen category and one that no row has), everything learns.
    assert not [n for n in deaf if not n.endswith(".k.bias")]
    fast = prepare(copy.deepcopy(model).float())
    with torch.inference_mode():
        single = {name: x.float() if x.is_floating_point() else x for name, x in batch.items()}
        torch.testing.assert_close(fast(single, target), whole.float(), atol=1e-4, rtol=1e-4)


COMPILE = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from tiny_fusion import built, lacking, rows, spec_of
names = ("text", "image")
batch = lacking(rows(names, dtype=torch.float32), image=[1, 0, 1, 1])
for kind in sys.argv[2:]:
    model = built(spec_of(kind, names), torch.float32)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(batch), model(batch), atol=1e-5, rtol=1e-5)
"""


def test_it_compiles():
    """In a process without shape checks, which a compiler cannot read."""
    environment = {**os.environ, "TESSELLA_SHAPES": "0"}
    command = [sys.executable, "-c", COMPILE, str(Path(__file__).parent), "cross-to-concat"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
