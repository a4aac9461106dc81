"""ONNX: onnxruntime answers as the run does, from bytes, for any number of images, and knows the classes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_vision as tiny
import torch
from test_export_vision import distilled, finished, ours, trunked
from tiny_vision import NAMES, encoded, picture

from tessella.errors import InputError
from tessella.exporting import to_onnx
from tessella.exporting.run import export_run
from tessella.runs import RunFolder

RUNS = {
    "vit": (lambda: tiny.vit(depth=1), 32),
    "deit, resized positions": (lambda: trunked(distilled(), depth=1), 48),
    "swin, shifted and padded": (lambda: trunked(tiny.swin(windows=(4, 3)), depths=(2, 1)), 36),
    "cvt": (lambda: trunked(tiny.cvt(), depths=(1, 1)), 32),
    "resnet": (tiny.resnet, 32),
}
EXPORT = """
import sys
from tessella.exporting import to_onnx
from tessella.exporting.run import export_run
for run, out in zip(sys.argv[1::2], sys.argv[2::2]):
    to_onnx.LARGEST = 1000 if out.endswith("big.onnx") else 2**30
    export_run(run, "onnx", out, print)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Name -> (run, its .onnx), written in a process without shape checks, which a tracer cannot read."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("onnx")
    made = {}
    for number, (name, (make, size)) in enumerate(RUNS.items()):
        run = finished(folder / f"run{number}", make(), size)
        RunFolder(run).note(imported={"licence": "mit"})
        made[name] = run, folder / f"{number}.onnx"
    made["big"] = made["resnet"][0], folder / "beside" / "big.onnx"
    paths = [str(path) for pair in made.values() for path in pair]
    environment = {**os.environ, "TESSELLA_SHAPES": "0"}
    done = subprocess.run([sys.executable, "-c", EXPORT, *paths], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["the weights are more than one ONNX file holds: keep big.onnx.data beside it"]
    assert not done.stderr
    return made


def session(path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", RUNS)
def test_probabilities_are_those_of_the_run(exported, name):
    run, path = exported[name]
    classifier, theirs = ours(run), session(path)
    for batch in (1, 2, 5):
        pixels = torch.randint(0, 256, (batch, 3, *classifier.image.size), dtype=torch.uint8)
        expected = classifier.logits(pixels).softmax(-1)
        (found,) = theirs.run(["probabilities"], {"images": pixels.numpy()})
        assert found.shape == (batch, len(NAMES))
        assert np.abs(found - expected.numpy()).max() < 1e-4
    assert expected.std() > 1e-3, "something to compare"


def test_the_file_alone_is_enough(exported):
    """Names, preparation and licence are read from it; nothing of ours is needed but Pillow's resizing."""
    run, path = exported["vit"]
    theirs = session(path)
    told = {key: json.loads(value) for key, value in theirs.get_modelmeta().custom_metadata_map.items()}
    assert told["classes"] == list(NAMES)
    assert told["licence"] == "mit"
    (given,) = theirs.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 3, 32, 32])
    prepared = told["preprocess"]
    assert (prepared["size"], prepared["crop"]) == ([32, 32], 1.0)
    image = picture(5, 32, 32)
    pixels = np.asarray(image).transpose(2, 0, 1)[None]
    (found,) = theirs.run(None, {"images": pixels})
    (answer,) = ours(run).classify([encoded(image)])
    label, probability = answer.classes[0]
    assert told["classes"][found[0].argmax()] == label
    assert found[0].max() == pytest.approx(probability, abs=1e-4)


def test_weights_beyond_one_file_lie_beside_it(exported):
    alone, path = exported["resnet"][1], exported["big"][1]
    assert {file.name for file in path.parent.iterdir()} == {"big.onnx", "big.onnx.data"}
    assert path.stat().st_size < alone.stat().st_size
    pixels = np.zeros((1, 3, 32, 32), np.uint8)
    one, two = (session(file).run(None, {"images": pixels})[0] for file in (alone, path))
    assert np.array_equal(one, two)


def test_what_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    run = finished(tmp_path / "run", tiny.vit())
    (tmp_path / "taken.onnx").write_text("x")
    with pytest.raises(InputError, match="is there already"):
        export_run(run, "onnx", tmp_path / "taken.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"pip install tessella\[onnx\]"):
        to_onnx.write_onnx(ours(run), tmp_path / "out.onnx", {})
    assert not (tmp_path / "out.onnx").exists()
