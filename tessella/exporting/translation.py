"""Export, translation: a translator for CTranslate2 or in the layout of transformers, with a page on how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from tessella import files
from tessella.decode import Decoding
from tessella.exporting.ct2 import ct2_spec
from tessella.models import EncoderDecoder
from tessella.predict import filled, fits
from tessella.recipes.translation import Translation
from tessella.runs import RunFolder
from tessella.text import Codec
from tessella.weights import untranslate
from tessella.zoo.marian import RULES, marian_config

Writer = Callable[[EncoderDecoder, nn.Module, Codec, Decoding, Path], str]
"""Fills a folder and returns the text of its README.md."""

WIDE = {
    r"\.(q_proj|k_proj|v_proj|fc1)\.weight|embed_tokens\.weight|shared\.weight|lm_head\.weight": 1,
    r"\.(out_proj|fc2)\.(weight|bias)|layer_norm\.(weight|bias)": 0,
}
"""Which axis of their tensors runs over the model's width."""


def write(writer: Writer, run: RunFolder, recipe: Translation, out: Path) -> list[str]:
    """Writes the new folder `out`, complete with both vocabularies; returns no remarks."""
    codec = Codec.load(run.path / "codec.json")
    fits(recipe.model, codec, str(run.path))
    model = filled(recipe.model, run)
    with files.new_folder(out) as draft:
        how = writer(recipe.model, model, codec, recipe.decoding, draft)  # pyright: ignore[reportArgumentType]
        (draft / "README.md").write_text(how, encoding="utf-8")
        codec.save(draft / "codec.json")
        for side, tokenizer in (("source", codec.source), ("target", codec.target)):
            text = json.dumps(tokenizer.model, ensure_ascii=False)
            (draft / f"{side}_tokenizer.json").write_text(text, encoding="utf-8")
    return []


def ctranslate2(spec: EncoderDecoder, model: nn.Module, codec: Codec, decoding: Decoding, out: Path) -> str:
    """model.bin, config.json and the vocabularies."""
    ct2_spec(spec, model, codec).save(str(out))
    power = decoding.penalty == "power" or decoding.alpha == 0
    note = "" if power else GNMT.format(alpha=decoding.alpha)
    longest = f"round({decoding.ratio} * len(pieces)) + {decoding.extra}" if decoding.ratio else str(decoding.extra)
    end = codec.source.vocabulary[codec.source.eos]
    return CTRANSLATE2.format(
        beam=decoding.beam, alpha=decoding.alpha if power else 1.0, longest=longest, note=note, end=end
    )


def hf(spec: EncoderDecoder, model: nn.Module, codec: Codec, decoding: Decoding, out: Path) -> str:
    """config.json, generation_config.json and model.safetensors, as MarianMTModel.from_pretrained reads them."""
    config = marian_config(spec)
    state = untranslate(model.state_dict(), RULES[spec.tie])
    if spec.source.positions.layout == "interleaved":  # type: ignore[attr-defined]
        state = {name: _channels_in_halves(name, tensor) for name, tensor in state.items()}
    state.setdefault("final_logits_bias", torch.zeros(1, spec.target.vocab))
    target = codec.target
    ids = {"pad_token_id": target.pad, "eos_token_id": target.eos, "decoder_start_token_id": target.bos}
    ids = {**ids, "bos_token_id": None, "forced_eos_token_id": None}
    search = {
        "num_beams": decoding.beam,
        "length_penalty": decoding.alpha if decoding.penalty == "power" else 1.0,
        # They count the start piece, and know no limit that grows with the source.
        "max_length": config["max_position_embeddings"] if decoding.ratio else decoding.extra + 1,
        "renormalize_logits": True,
        "bad_words_ids": [[i] for i in sorted({target.pad, target.bos, target.unk} - {target.eos})],
    }
    files.save_tensors(out / "model.safetensors", state)
    files.write_json(out / "config.json", {**config, **ids})
    files.write_json(out / "generation_config.json", {**ids, **search})
    return HF


FORMATS = {"ctranslate2": partial(write, ctranslate2), "hf": partial(write, hf), "safetensors": partial(write, hf)}
"""Name of the format -> (run, recipe, out) -> what to tell the user, having written `out`."""


def _channels_in_halves(name: str, tensor: Tensor) -> Tensor:
    """Even channels before odd ones, wherever a tensor runs over the width: interleaved sines become sines | cosines.

    The channels of the residual stream have no order of their own, so that the model computes what it did.
    """
    for pattern, axis in WIDE.items():
        if re.search(pattern, name):
            if axis == 1:
                return rearrange(tensor, "o (i two) -> o (two i)", two=2)
            return rearrange(tensor, "(i two) ... -> (two i) ...", two=2)
    return tensor


GNMT = """
The run's own search divides by ((5 + length) / 6)^{alpha}, which CTranslate2 does not have; it divides by length to the
power of `length_penalty`.
"""

CTRANSLATE2 = """# A translator for CTranslate2

It needs the packages `ctranslate2` and `tokenizers`, nothing else. In this folder:

```python
import ctranslate2
import tokenizers

source = tokenizers.Tokenizer.from_file("source_tokenizer.json")
target = tokenizers.Tokenizer.from_file("target_tokenizer.json")
translator = ctranslate2.Translator(".")


def translate(text):
    pieces = source.encode(" ".join(text.split()), add_special_tokens=False).tokens + ["{end}"]
    found = translator.translate_batch(
        [pieces],
        beam_size={beam},
        length_penalty={alpha},
        max_decoding_length={longest},
        min_decoding_length=0,  # as in the run's search: an answer may be empty
        return_scores=True,
    )[0]
    return " ".join(target.decoder.decode(found.hypotheses[0]).split())
```
{note}
Padding, start and unknown piece are made impossible as answers. `codec.json` holds both tokenizers with their special
ids for tessella.
"""

HF = """# A translator in the layout of transformers

```python
import torch
import transformers
from tessella.text import Codec

codec = Codec.load("codec.json")
model = transformers.MarianMTModel.from_pretrained(".").eval()


def translate(text):
    ids = torch.tensor(codec.source.encode([" ".join(text.split())]))
    return codec.target.decode(model.generate(input_ids=ids).tolist())[0]
```

`source_tokenizer.json` and `target_tokenizer.json` are the same vocabularies for the package `tokenizers`; there every
sentence must end with the end piece.
"""
