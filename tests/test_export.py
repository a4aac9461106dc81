"""Export: CTranslate2 and transformers answer as the run does."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
from marian_folder import TEXT, write_model, write_text

from tessella.decode import Decoding
from tessella.errors import InputError
from tessella.exporting.run import export_run
from tessella.importing.checkpoint import import_run
from tessella.models import EncoderDecoder
from tessella.positions import Learned, NoPositions, Sinusoidal
from tessella.predict import load
from tessella.recipes.named import to_yaml
from tessella.recipes.translation import Translation
from tessella.runs import RunFolder
from tessella.stems.words import Words
from tessella.text import CodecSpec, train_codec
from tessella.trunks.plain import Plain, PlainDecoder
from tessella.zoo.seq2seq import seq2seq

SENTENCES = ["the cat sat on a mat", "hello 한국 사람 오늘", "Guten Morgen", "birds  sing in 🙂 trees at night", "x"]
MODELS = {
    "post": {},
    "final": {"norm": "post+final", "activation": "gelu"},
    "pre": {"norm": "pre", "activation": "gelu-tanh", "positions": Sinusoidal(layout="halves")},
    "learned": {"norm": "pre", "positions": Learned(length=60), "activation": "silu", "bias": True},
    "none": {"positions": NoPositions(), "activation": "quick-gelu", "scale": 1.0, "eps": 1e-4},
}


def small(norm="post", activation="relu", positions=None, scale=None, eps=1e-5, tie="all", bias=False):
    words = {"vocab": 0, "dim": 16, "positions": positions or Sinusoidal(), "scale": scale}
    stack = {"dim": 16, "hidden": 24, "norm": norm, "activation": activation, "eps": eps}
    return EncoderDecoder(
        source=Words(**words),
        encoder=Plain(**stack, depth=2, heads=2),
        target=Words(**words),
        decoder=PlainDecoder(**stack, depth=3, heads=4, memory=16),
        tie=tie,
        bias=bias,
    )


def finished(folder: Path, model: EncoderDecoder, shared: bool = True) -> Path:
    """A run with random weights."""
    source, target = TEXT.splitlines()
    codec = train_codec(CodecSpec(size=330, shared=shared), [source] * 9, [target] * 9)
    vocabularies = {"source": codec.source.size, "target": codec.target.size}
    model = model.replace(**{k: getattr(model, k).replace(vocab=v) for k, v in vocabularies.items()})
    run = RunFolder.create(folder)
    run.write("codec.json", codec.save)
    decoding = Decoding(beam=4, alpha=1.0, penalty="power", ratio=0.0, extra=20)
    run.write_text("recipe.yaml", to_yaml(Translation(model=model, decoding=decoding)))
    network = model.build()
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm.weight" in name else 0.0, 0.25)
    run.save_weights(network.state_dict())
    return folder


def page(folder: Path):
    """The function `translate` of the exported README, as a reader would run it, in that folder."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    here, names = os.getcwd(), {}
    os.chdir(folder)
    try:
        exec(re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)[1], names)
    finally:
        os.chdir(here)
    return names


def compare_ct2(run: Path, out: Path) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    ours = load(run, "cpu")
    export_run(run, "ctranslate2", out)
    theirs = ctranslate2.Translator(str(out), compute_type="float32")
    vocabulary = {side: getattr(ours.codec, side).vocabulary for side in ("source", "target")}
    rows = ours.codec.source.encode([" ".join(text.split()) for text in SENTENCES])
    for beam in (1, 4):
        how = Decoding(beam=beam, alpha=1.0, penalty="power", ratio=0.0, extra=12)
        best = [found[0] for found in ours.search(rows, how)]
        answers = theirs.translate_batch(
            [[vocabulary["source"][i] for i in row] for row in rows],
            beam_size=beam,
            length_penalty=1.0,
            max_decoding_length=12,
            min_decoding_length=0,
            patience=8 if beam > 1 else 1,  # else they stop where a longer answer may still win
            return_scores=True,
        )
        assert [a.hypotheses[0] for a in answers] == [[vocabulary["target"][i] for i in b.ids] for b in best]
        if beam > 1:  # greedy search counts what the forbidden pieces would have had
            assert max(abs(a.scores[0] - b.score) for a, b in zip(answers, best, strict=True)) < 1e-3


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_ctranslate2_answers_as_the_run_does(tmp_path, changes):
    compare_ct2(finished(tmp_path / "run", small(**changes)), tmp_path / "out")
    translate = page(tmp_path / "out")["translate"]
    assert translate(SENTENCES[0]) == load(tmp_path / "run", "cpu")(SENTENCES[0]).text
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {"model.bin", "config.json", "codec.json", "source_tokenizer.json", "README.md"} <= manifest["files"].keys()


def test_ctranslate2_with_two_vocabularies(tmp_path):
    run = finished(tmp_path / "run", small(tie="target"), shared=False)
    compare_ct2(run, tmp_path / "out")
    assert (tmp_path / "out" / "target_vocabulary.json").exists()


def test_ctranslate2_of_an_imported_marian(tmp_path):
    pytest.importorskip("transformers")
    write_model(tmp_path, write_text(tmp_path))
    run = import_run(str(tmp_path), tmp_path / "run")
    compare_ct2(run, tmp_path / "out")
    codec = load(run, "cpu").codec.source
    pieces = page(tmp_path / "out")["source"].encode(">>fra<< the cat 한국").tokens
    assert [codec.vocabulary.index(piece) for piece in pieces] == codec.encode([">>fra<< the cat 한국"])[0][:-1]


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({}, True),
        ({"activation": "silu", "bias": True, "scale": 1.0}, True),
        ({"tie": "target"}, False),
        ({"tie": "none"}, True),
    ],
    ids=["interleaved", "bias", "separate", "untied"],
)
def test_transformers_computes_what_the_run_does(tmp_path, changes, shared):
    transformers = pytest.importorskip("transformers")
    run = finished(tmp_path / "run", small(**changes), shared)
    ours = load(run, "cpu")
    out = export_run(run, "hf", tmp_path / "out")
    theirs, info = transformers.MarianMTModel.from_pretrained(out, output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    source, target = torch.randint(4, 200, (2, 8)), torch.randint(4, 200, (2, 6))
    source[1, 5:] = 0
    with torch.no_grad():
        expected = theirs.eval()(input_ids=source, attention_mask=source != 0, decoder_input_ids=target).logits
        assert (ours.model(source, target) - expected).abs().max() < 1e-5
    translate = page(out)["translate"]
    for text in SENTENCES[:2]:
        assert translate(text) == ours(text).text


def test_a_marian_goes_out_as_it_came_in(tmp_path):
    pytest.importorskip("transformers")
    write_model(tmp_path, write_text(tmp_path))
    run = import_run(str(tmp_path), tmp_path / "run")
    out = export_run(run, "safetensors", tmp_path / "out")
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, out))
    differ = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    assert differ == {"max_position_embeddings", "forced_eos_token_id"}
    assert load(run).decoding.extra == json.loads((out / "generation_config.json").read_text())["max_length"] - 1


def test_what_a_format_cannot_hold_is_refused(tmp_path, monkeypatch):
    run = finished(tmp_path / "run", small(norm="pre"))
    with pytest.raises(InputError, match="needs norm 'post', but the model has 'pre'"):
        export_run(run, "hf", tmp_path / "out")
    with pytest.raises(InputError, match="no export format 'onyx'"):
        export_run(run, "onyx", tmp_path / "out")
    with pytest.raises(InputError, match="is there already"):
        export_run(run, "hf", run)
    recurrent = finished(tmp_path / "rnn", seq2seq(0, dim=8, hidden=8))
    for to in ("ctranslate2", "hf"):
        with pytest.raises(InputError, match=r"'recurrent'.*only plain Transformers"):
            export_run(recurrent, to, tmp_path / "out")
    monkeypatch.setitem(__import__("sys").modules, "ctranslate2.specs", None)
    with pytest.raises(InputError, match=r"pip install tessella\[ctranslate2\]"):
        export_run(run, "ctranslate2", tmp_path / "out")
    assert not (tmp_path / "out").exists()
