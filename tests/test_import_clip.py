"""Import, CLIP: the vectors of the published towers, texts and images prepared as there."""

from __future__ import annotations

import gzip
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_clip import lively, pieces, write_clip, write_pieces
from tiny_vision import encoded, picture

from tessella import files
from tessella.data.ids import Reading
from tessella.data.pixels import Preprocess, fitted, normalised
from tessella.errors import InputError
from tessella.importing.checkpoint import import_run
from tessella.importing.clip_tokenizer import is_clip, read_openai, read_tokenizer, write_tokenizer
from tessella.importing.preprocessors import from_transformers
from tessella.predict import load, opened
from tessella.runs import RunFolder
from tessella.text import Codec
from tessella.weights import untranslate
from tessella.zoo.clip import RN, SIZES, ViT
from tessella.zoo.clip_layouts import rules

LENGTH = 77
HARD = [
    "A photo of THE Cat",
    "",
    "   ",
    "\t a\n\r b\u00a0\u3000\u2028c  ",
    "don't can't we'll I'M he's they've YOU'RE 'tis ''ll",
    "photo 12345 6½ ① ² 三",
    "고양이와 개 한국어 문장",
    "\u1112\u1161\u11ab e\u0301 n\u0303 a\u0308\u0308 \u0301",
    "😀👩‍👩‍👧🇰🇷☕️",
    "\x00\x01\x1b\x7f\x85 a\u200bb\ufeffc",
    "<|endoftext|>",
    "x<|endoftext|>y <|startoftext|> z",
    "<|ENDOFTEXT|> <|endoftext |>",
    "the cat " * 100,
    "photo" * 400,
    "!!!???...---_under_score_ @#$%^&*()",
    "ſ İ ǅ ß ﬁ Å K",
    "</w> a</w> Ġ Ł Ģ",
    "&amp; &lt;b&gt; \\n",
    "\U0010fffd \ufffd",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same tokenizer as vocab.json and merges.txt, as transformers saves it, and with older flags."""
    transformers = pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("tokenizers")
    made = {"two files": write_pieces(place / "two files")}
    transformers.CLIPTokenizer.from_pretrained(made["two files"]).save_pretrained(place / "saved")
    shutil.copytree(place / "saved", place / "older")
    data = json.loads((place / "older" / "tokenizer.json").read_text())
    data["added_tokens"][0]["normalized"] = True
    (place / "older" / "tokenizer.json").write_text(json.dumps(data))
    (place / "older" / "tokenizer_config.json").unlink()
    (place / "older" / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": "!", "unk_token": {"content": "<|endoftext|>"}})
    )
    return made | {"saved": place / "saved", "older": place / "older"}


@pytest.fixture(scope="module")
def both(folders):
    """Name -> the tokenizer of transformers, and ours as a model of 77 ids reads with it."""
    from transformers import CLIPTokenizer

    read = {name: read_tokenizer(folder) for name, folder in folders.items()}
    return {
        name: (CLIPTokenizer.from_pretrained(folder), Reading(read[name].tokenizer, LENGTH, read[name].begin))
        for name, folder in folders.items()
    }


def row(reading: Reading, text: str) -> list[int]:
    return reading([text]).padded([0])[0].tolist()


@pytest.mark.parametrize("text", HARD)
@pytest.mark.parametrize("name", ["two files", "saved", "older"])
def test_ids_are_those_of_transformers(both, name, text):
    theirs, ours = both[name]
    wanted = theirs(text, truncation=True, max_length=LENGTH).input_ids
    assert row(ours, text) == wanted
    assert wanted[-1] == len(pieces()[0]) - 1 and len(wanted) <= LENGTH
    if "<|" not in text:
        said = theirs.decode(wanted, skip_special_tokens=True)
        assert ours.tokenizer.decode([wanted])[0].split() == said.split()


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=40))
def test_ids_of_any_text_are_those_of_transformers(both, text):
    theirs, ours = both["saved"]
    assert row(ours, text) == theirs(text, truncation=True, max_length=LENGTH).input_ids


def test_a_codec_keeps_it(both, tmp_path):
    tokenizer = both["saved"][1].tokenizer
    Codec(tokenizer).save(tmp_path / "codec.json")
    again = Codec.load(tmp_path / "codec.json").source
    assert again.encode(HARD) == tokenizer.encode(HARD) and is_clip(again)


def test_transformers_reads_what_we_write(folders, tmp_path):
    from transformers import CLIPTokenizer

    texts = read_tokenizer(folders["older"])
    write_tokenizer(texts, LENGTH, tmp_path)
    theirs, ours = CLIPTokenizer.from_pretrained(tmp_path), Reading(texts.tokenizer, LENGTH, texts.begin)
    assert (theirs.pad_token, theirs.model_max_length) == ("!", LENGTH)
    for text in HARD:
        assert theirs(text, truncation=True).input_ids == row(ours, text)


def test_openais_own_list_of_merges_is_enough(folders, tmp_path):
    names, merges = pieces()
    packed = tmp_path / "bpe_simple_vocab.txt.gz"
    lines = ['"bpe_simple_vocab_16e6.txt#version: 0.2', *merges, "n o", "m ore"]
    packed.write_bytes(gzip.compress("\n".join(lines).encode()))
    read = read_openai(packed, len(names))
    assert read.tokenizer.vocabulary == names and read.begin == len(names) - 2
    assert read.tokenizer.encode(HARD) == read_tokenizer(folders["saved"]).tokenizer.encode(HARD)
    with pytest.raises(InputError, match=f"gives {len(names) + 2} pieces, but the model's vocabulary has 600"):
        read_openai(packed, 600)
    packed.write_bytes(packed.read_bytes()[:40])
    with pytest.raises(InputError, match=r"is no whole \.gz file"):
        read_openai(packed, len(names))


def spoilt(folder, file: str, content: str | None) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)


@pytest.mark.parametrize(
    ("name", "file", "content", "complaint"),
    [
        ("two files", "merges.txt", None, "there is no file .*merges.txt"),
        ("two files", "vocab.json", None, "vocab.json"),
        ("two files", "merges.txt", "#version: 0.2\np h\nthree of them", "line 3 must be two pieces"),
        ("two files", "merges.txt", "x yz", "do not fit together"),
        ("two files", "vocab.json", '{"a": 0}', "has no '<|endoftext|>'".replace("|", r"\|")),
        ("saved", "tokenizer.json", '{"model": {"type": "WordPiece"}}', "is no tokenizer of CLIP's kind"),
        ("saved", "tokenizer.json", '{"model": 3}', "has no model of pieces"),
        ("saved", "tokenizer_config.json", '{"do_lower_case": false}', "keeps upper case"),
        ("saved", "tokenizer_config.json", '{"pad_token": "[PAD]"}', r"has no '\[PAD\]'"),
    ],
)  # fmt: skip
def test_what_is_no_tokenizer_of_clip_is_one_line(folders, tmp_path, name, file, content, complaint):
    folder = shutil.copytree(folders[name], tmp_path / "spoilt")
    spoilt(folder, file, content)
    with pytest.raises(InputError, match=complaint) as error:
        read_tokenizer(folder)
    assert "\n" not in str(error.value)


SIDES = [(64, 96), (96, 64), (24, 24), (25, 23), (501, 77), (23, 333), (13, 7), (1, 300), (300, 301)]


@pytest.mark.parametrize("size", SIDES)
def test_pixels_are_those_of_its_processor(size):
    """Of two middles that are equally near, OpenAI's code (torchvision's) takes the even one, transformers the first.

    They are not the same where 3 more pixels than a multiple of 4 are cut away; there, we do as OpenAI's code.
    """
    pytest.importorskip("transformers")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    side = 24
    theirs = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    ours = from_transformers(theirs.to_dict(), "clip").image
    assert ours.mean == (0.48145466, 0.4578275, 0.40821073) and ours.crop == 1.0
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    pixels = normalised(torch.from_numpy(fitted(image, ours))[None], ours)
    whole = theirs(image, return_tensors="pt", do_center_crop=False)["pixel_values"]
    top, left = (round((n - side) / 2) for n in whole.shape[2:])
    assert (pixels - whole[:, :, top : top + side, left : left + side]).abs().max() < 1e-6
    same = all((n - side) % 4 != 3 for n in whole.shape[2:])
    assert torch.allclose(pixels, theirs(image, return_tensors="pt")["pixel_values"], atol=1e-6) == same
    assert same or size == (23, 333)


def test_pixels_of_photos_are_those_of_its_processor(shared_data):
    pytest.importorskip("transformers")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from tessella.data.captioned import read_captioned

    if not (shared_data / "flickr8k").is_dir():
        pytest.skip("no photos: shared/data/flickr8k is not there")
    photos = read_captioned(shared_data / "flickr8k", "test").pictures
    theirs = CLIPImageProcessorPil()
    ours = from_transformers({**theirs.to_dict(), "image_processor_type": "CLIPImageProcessor"}, "clip").image
    for number in range(0, 60, 10):
        photo = photos.decode(number)
        wanted = theirs(photo, return_tensors="pt")["pixel_values"]
        assert (normalised(torch.from_numpy(fitted(photo, ours))[None], ours) - wanted).abs().max() < 1e-6


OLD = {
    "crop_size": 24,
    "do_center_crop": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "resample": 3,
    "size": 24,
}


def test_older_files_prepare_alike():
    numbers = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    made = from_transformers({**OLD, **numbers, "do_convert_rgb": True}, "clip").image
    assert made == Preprocess(size=(24, 24), crop=1.0, mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bicubic")


# Whole checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder like those on the Hub, and what transformers has in it."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    return folder, *write_clip(folder)


@pytest.fixture
def copied(checkpoint, tmp_path):
    """A copy of the folder, to be spoilt."""
    return shutil.copytree(checkpoint[0], tmp_path / "clip")


PHOTOS = [(64, 96), (40, 30), (24, 24)]
CAPTIONS = ["the photo", "a cat and the dog", "", "고양이 " * 9, "the <|endoftext|> dog"]


def test_vectors_are_those_of_transformers(checkpoint, tmp_path):
    folder, theirs, tokenizer, processor = checkpoint
    ours = load(import_run(str(folder), tmp_path / "run"), "cpu")
    photos = [picture(number, *size) for number, size in enumerate(PHOTOS)]
    inputs = tokenizer(CAPTIONS, padding=True, truncation=True, return_tensors="pt")
    pixels = processor(photos, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        said = theirs(**inputs, pixel_values=pixels)
    images = np.stack(list(ours.images([encoded(photo) for photo in photos])))
    texts = ours.texts(CAPTIONS)
    assert np.abs(images - said.image_embeds.numpy()).max() < 1e-5
    assert np.abs(texts - said.text_embeds.numpy()).max() < 1e-5
    assert np.abs(ours.scale * images @ texts.T - said.logits_per_image.numpy()).max() < 1e-4
    assert said.text_embeds.std(dim=0).mean() > 0.02, "captions differ"


def test_a_run_says_where_it_came_from(copied, tmp_path):
    (copied / "README.md").write_text("---\nlicense: mit\n---\n")
    run, recipe = opened(import_run(str(copied), tmp_path / "run"))
    assert recipe.kind == "matching"
    assert (recipe.length, recipe.begin) == (16, len(pieces()[0]) - 2)
    facts = run.manifest["imported"]
    assert (facts["model_type"], facts["licence"]) == ("clip", "mit")
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"} <= facts["sha256"].keys()


def test_the_preparation_may_stand_beside_that_of_texts(copied, tmp_path):
    said = json.loads((copied / "preprocessor_config.json").read_text())
    (copied / "preprocessor_config.json").unlink()
    (copied / "processor_config.json").write_text(json.dumps({"image_processor": said}))
    assert opened(import_run(str(copied), tmp_path / "run"))[1].image.size == (24, 24)


CONFIG, PREPROCESSOR, SPOKEN = "config.json", "preprocessor_config.json", "tokenizer_config.json"


@pytest.mark.parametrize(
    ("file", "changes", "complaint"),
    [
        (CONFIG, {"architectures": ["CLIPVisionModelWithProjection"]}, "both towers are needed"),
        (CONFIG, {"projection_dim": 21}, r"image.head.project.weight \(20 x 32, needs 21 x 32\)"),
        (CONFIG, {"vision_config": {"patch_size": 5, "image_size": 24}}, "not tiled by patches of 5"),
        (CONFIG, {"text_config": {"hidden_size": 3}}, "dim 3 is not divisible by heads 8"),
        (PREPROCESSOR, {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}, "prepared as"),
        (PREPROCESSOR, {"do_resize": False}, "sets do_resize to False"),
        (SPOKEN, {"eos_token": "!", "pad_token": "!"}, "texts end with id 0 in the tokenizer, but with"),
    ],
)
def test_what_does_not_fit_is_one_line(copied, tmp_path, file, changes, complaint):
    path = copied / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(InputError, match=complaint) as error:
        import_run(str(copied), tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


# One file of weights


TINY = {
    "vit_b32": SIZES["vit_b32"]._replace(image=ViT(32, 2, 4, 32)),
    "rn50": SIZES["rn50"]._replace(image=RN((2, 1, 1, 1), (16, 24, 32, 48), 4)),
}
"""The same models with smaller image towers, since real ones take long to write."""


@pytest.mark.parametrize("size", TINY)
def test_one_file_of_openai_makes_the_same_run(size, folders, monkeypatch, tmp_path):
    from tessella.zoo.catalog import model_spec

    monkeypatch.setitem(SIZES, size, TINY[size]._replace(text=TINY[size].text._replace(depth=1)))
    name, words = f"clip_{size}", len(pieces()[0])
    spec = model_spec(name, {"vocab": words, "length": 9})
    model = lively(spec.build())
    state = untranslate(model.state_dict(), rules(spec, "openai"))
    state |= {"input_resolution": torch.tensor(224), "context_length": torch.tensor(9)}
    files.save_tensors(
        tmp_path / "w.safetensors", {key: t.half() if t.is_floating_point() else t for key, t in state.items()}
    )
    out = import_run(
        tmp_path / "w.safetensors", tmp_path / "run", layout="openai", model=name, codec=folders["two files"]
    )
    run, recipe = opened(out)
    weights = run.weights()
    assert weights.keys() == model.state_dict().keys()
    assert all((weights[key] - t).abs().max() < 1e-3 * max(1, t.abs().max()) for key, t in model.state_dict().items())
    assert (recipe.length, recipe.begin) == (9, words - 2)
    assert run.manifest["imported"]["licence"] == "MIT"
    assert load(out, "cpu").texts(["a photo"]).shape == (1, SIZES[size].width)


def test_one_file_needs_a_tokenizer(folders, tmp_path):
    path = tmp_path / "w.safetensors"
    files.save_tensors(path, {"token_embedding.weight": torch.zeros(9, 4)})
    for codec, complaint in ((None, "say with --codec where it is"), (folders["saved"], "no 'positional_embedding'")):
        with pytest.raises(InputError, match=complaint):
            import_run(path, tmp_path / "run", layout="openai", model="clip_vit_b32", codec=codec)
    with pytest.raises(InputError, match="has no layout 'timm'"):
        import_run(path, tmp_path / "run", layout="timm", model="clip_vit_b32")
    assert not RunFolder(tmp_path / "run").path.exists()
