"""Export, CLIP: other libraries compute what the run does, and the way back gives the run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_clip import lively, write_pieces
from tiny_vision import picture

from tessella import files
from tessella.data.pixels import Preprocess, fitted
from tessella.errors import InputError
from tessella.exporting.run import export_run
from tessella.importing.checkpoint import import_run
from tessella.importing.clip_tokenizer import read_tokenizer
from tessella.models import Towers
from tessella.predict import load, opened
from tessella.recipes.matching import Matching, with_text
from tessella.recipes.named import to_yaml
from tessella.runs import RunFolder
from tessella.text import Codec, CodecSpec, Tokenizer, train_codec
from tessella.zoo import clip
from tessella.zoo.catalog import model_spec
from tessella.zoo.clip import RN, Size, Text, ViT

TINY = {
    "vit_b32": Size(ViT(64, 2, 1, 8), Text(64, 2, 1), 20, 24, 0.0),
    "rn50": Size(RN((2, 1, 1, 1), (16, 24, 32, 48), 4), Text(64, 2, 1), 20, 64, 0.0),
}
SAID = [
    "Two dogs play in the snow.",
    "A child reads a book",
    "눈 속에서 노는 개 두 마리",
    "the photo of a cat and a dog",
] * 3
CAPTIONS = [*SAID[:3], "", "dog 😀 " * 9, "<|endoftext|> snow", "<eos> child"]
LENGTH = 12


def words(kind: str, folder: Path) -> tuple[Tokenizer, int | None]:
    """A tokenizer of CLIP's kind, or one that was trained here, and the id in front of texts."""
    if kind == "clip":
        texts = read_tokenizer(write_pieces(folder / "pieces"))
        return texts.tokenizer, texts.begin
    method = CodecSpec(method=kind, size=400, lowercase=True)  # pyright: ignore
    return train_codec(method, SAID, SAID).source, None


def finished(folder: Path, size: str, kind: str, **options) -> Path:
    """A run with lively weights."""
    tokenizer, begin = words(kind, folder)
    pixels = getattr(clip.SIZES.get(size), "pixels", 32)
    spec = model_spec(f"clip_{size}", {"length": LENGTH, "image_size": pixels, **options})
    assert isinstance(spec, Towers)
    model = with_text(spec, tokenizer.size, tokenizer.pad, tokenizer.eos if kind == "clip" else None)
    image = Preprocess(size=(pixels, pixels), crop=1.0, mean=clip.MEAN, std=clip.STD, interpolation="bicubic")
    run = RunFolder.create(folder / "run")
    run.write_text("recipe.yaml", to_yaml(Matching(image=image, length=LENGTH, begin=begin, model=model)))
    run.write("codec.json", Codec(tokenizer).save)
    run.save_weights(lively(model.build()).state_dict())
    return run.path


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    for size, numbers in TINY.items():
        monkeypatch.setitem(clip.SIZES, size, numbers)
        monkeypatch.setitem(clip.VARIANTS, f"clip_{size}", clip.partial(clip.clip, size, image_size=numbers.pixels))
        card = clip.CARDS[f"clip_{size}"]._replace(size=numbers.pixels)
        for cards in (clip.CARDS, sys.modules["tessella.zoo.catalog"].CARDS):
            monkeypatch.setitem(cards, f"clip_{size}", card)
        monkeypatch.setitem(sys.modules["tessella.zoo.catalog"].MODELS, f"clip_{size}", clip.VARIANTS[f"clip_{size}"])


@pytest.mark.parametrize("kind", ["clip", "bpe", "unigram"])
@torch.no_grad()
def test_transformers_computes_the_same(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    said: list[str] = []
    run = finished(tmp_path, "vit_b32", kind)
    out, ours = export_run(run, "hf", tmp_path / "hf", said.append), load(run, "cpu")
    model, report = transformers.CLIPModel.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    processor = transformers.CLIPProcessor.from_pretrained(out)
    assert type(transformers.AutoProcessor.from_pretrained(out)) is transformers.CLIPProcessor
    captions = CAPTIONS if kind == "clip" else [text for text in CAPTIONS if "<" not in text]
    photos = [picture(number, *size) for number, size in enumerate([(64, 96), (40, 30)])]
    inputs = processor(text=captions, images=photos, padding=True, truncation=True, return_tensors="pt")
    found = model.eval()(**inputs)
    texts = ours.texts(captions)
    assert np.abs(texts - found.text_embeds.numpy()).max() < 1e-5
    assert np.abs(texts[1:] - texts[:1]).max(axis=1).min() > 0.01, "captions differ"
    pixels = torch.from_numpy(np.stack([fitted(photo, ours.image) for photo in photos]))
    assert (ours.embed(pixels) - found.image_embeds).abs().max() < 1e-5
    assert said == (
        [] if kind == "clip" else ["transformers reads '<eos>' in a text as its end; here it is text like any other"]
    )
    assert "CLIPModel" in (out / "README.md").read_text()

    again = load(import_run(out, tmp_path / "again"), "cpu")
    assert np.abs(again.texts(CAPTIONS) - ours.texts(CAPTIONS)).max() < 1e-6
    assert again.image.resized == ours.image.resized and again.scale == pytest.approx(ours.scale)


@pytest.mark.parametrize("kind", ["clip", "bpe"])
@pytest.mark.parametrize("size", TINY)
def test_openais_layout_and_back(size, kind, tmp_path):
    run = finished(tmp_path, size, kind)
    out, ours = export_run(run, "openai", tmp_path / "openai"), load(run, "cpu")
    state = files.read_tensors(out / "model.safetensors")
    assert {"visual.conv1.weight", "token_embedding.weight", "text_projection", "logit_scale"} <= state.keys()
    assert f"--model clip_{size} --codec codec.json" in (out / "README.md").read_text()
    back = import_run(
        out / "model.safetensors", tmp_path / "again", layout="openai", model=f"clip_{size}", codec=out / "codec.json"
    )
    again, recipe = load(back, "cpu"), opened(back)[1]
    assert np.abs(again.texts(CAPTIONS) - ours.texts(CAPTIONS)).max() < 1e-6
    pixels = torch.randint(256, (2, 3, *ours.image.size), dtype=torch.uint8)
    assert torch.equal(again.embed(pixels), ours.embed(pixels))
    tokenizer = Codec.load(out / "codec.json").source
    assert tokenizer.eos == tokenizer.size - 1 == recipe.model.text.stem.end, "argmax of the ids finds the end"
    assert again.text.begin == ours.text.begin


@pytest.mark.parametrize(
    ("size", "to", "options", "complaint"),
    [
        ("rn50", "hf", {}, "no image tower of 'pixels' and 'clip-resnet'"),
        ("micro", "hf", {}, "no image tower of 'pixels' and 'resnet'"),
        ("micro", "openai", {}, "towers of a 'resnet' have no layout"),
        ("vit_b32", "hf", {"bias": -10.0}, "needs bias None"),
        ("vit_b32", "timm", {}, "no export format 'timm' for a matching run"),
    ],
)
def test_what_cannot_be_written_is_one_line(size, to, options, complaint, tmp_path):
    run = finished(tmp_path, size, "bpe", **options)
    with pytest.raises(InputError, match=complaint) as error:
        export_run(run, to, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_heads_that_openais_code_would_not_have(tmp_path, monkeypatch):
    monkeypatch.setitem(clip.SIZES, "vit_b32", TINY["vit_b32"]._replace(text=Text(64, 2, 4)))
    with pytest.raises(
        InputError, match=r"in heads of 64, which is 1, but the text tower has 4; hf and onnx keep them"
    ):
        export_run(finished(tmp_path, "vit_b32", "bpe"), "openai", tmp_path / "out")


ONNX = """
import sys
from tessella.exporting.run import export_run
export_run(sys.argv[1], "onnx", sys.argv[2], print)
"""


def test_onnxruntime_computes_the_same(tmp_path):
    """Written in a process without shape checks, which a tracer cannot read."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    run, out = finished(tmp_path, "vit_b32", "bpe"), tmp_path / "onnx"
    environment = {**os.environ, "TESSELLA_SHAPES": "0"}
    command = [sys.executable, "-c", ONNX, str(run), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and not done.stderr, done.stderr[-3000:]
    ours = load(run, "cpu")
    image, text = (onnxruntime.InferenceSession(out / f"{name}.onnx") for name in ("image", "text"))
    told = {key: json.loads(value) for key, value in text.get_modelmeta().custom_metadata_map.items()}
    assert told["length"] == LENGTH and told["scale"] == pytest.approx(ours.scale)
    pixels = torch.randint(256, (3, 3, *ours.image.size), dtype=torch.uint8)
    assert np.abs(image.run(None, {"images": pixels.numpy()})[0] - ours.embed(pixels).numpy()).max() < 1e-5
    for texts in (CAPTIONS, CAPTIONS[:1]):
        ids = ours.text(texts).padded(range(len(texts)), full=True).numpy()
        assert np.abs(text.run(None, {"ids": ids})[0] - ours.texts(texts)).max() < 1e-5
    page = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict = {}
    here = Path.cwd()
    try:
        os.chdir(out)
        exec(page, names)
    finally:
        os.chdir(here)
    assert np.abs(names["embed"](CAPTIONS) - ours.texts(CAPTIONS)).max() < 1e-5
