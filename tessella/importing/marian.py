"""Importing, Marian: a translator of OPUS-MT in the layout of transformers, as a run that is not yet written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tessella import files
from tessella.decode import Decoding
from tessella.errors import InputError
from tessella.importing.imported import Imported, fitted_weights
from tessella.models import EncoderDecoder
from tessella.recipes.translation import ParallelText, Translation
from tessella.spm import marian_tokenizer, read_spm
from tessella.text import Codec, SpecialIds, Tokenizer
from tessella.zoo.marian import RULES, marian_spec

LARGEST_SPM = 64 * 2**20
NEUTRAL: dict[str, Any] = {
    "do_sample": False,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "min_length": 0,
    "num_beam_groups": 1,
    "forced_bos_token_id": None,
    "suppress_tokens": None,
}
"""Settings of generation_config.json that we do not have, and the values at which they change nothing."""


def import_marian(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Imported:
    """A MarianMT checkpoint of `transformers`: OPUS-MT and its like."""
    generation = _optional(folder / "generation_config.json")
    settings = {**config, **{name: value for name, value in generation.items() if value is not None}}
    spoken = _optional(folder / "tokenizer_config.json")
    spec = marian_spec(config)
    codec = marian_codec(folder, settings, spoken)
    for side, words, tokenizer in [("source", spec.source, codec.source), ("target", spec.target, codec.target)]:
        if words.vocab != tokenizer.size:  # type: ignore[attr-defined]
            raise InputError(
                f"{folder}: the {side} vocabulary has {tokenizer.size} pieces, but config.json says {words.vocab}"  # type: ignore[attr-defined]
            )
    languages = [spoken.get("source_lang") or "source", spoken.get("target_lang") or "target"]
    recipe = Translation(
        data=ParallelText(source=str(languages[0]), target=str(languages[1])),
        model=spec,
        decoding=_decoding(settings, spec, codec.target),
    )
    return Imported(recipe, fitted_weights(spec, weights, RULES[spec.tie]), {"codec.json": codec.save})


def marian_codec(folder: Path, settings: Mapping[str, Any], spoken: Mapping[str, Any]) -> Codec:
    """source.spm, target.spm and vocab.json as a codec with MarianTokenizer's ids.

    settings: config.json and generation_config.json together. spoken: tokenizer_config.json.
    """
    names = {"unk": "<unk>", "eos": "</s>", "pad": "<pad>"}
    names = {key: _content(spoken.get(f"{key}_token") or usual) for key, usual in names.items()}
    literal = dict.fromkeys(names.values())
    for added in (spoken.get("added_tokens_decoder") or {}).values():
        literal[_content(added)] = None
    separate = bool(spoken.get("separate_vocabs"))
    vocabularies = {"source": files.read_json(folder / "vocab.json")}
    vocabularies["target"] = files.read_json(folder / "target_vocab.json") if separate else vocabularies["source"]
    sides: dict[str, Tokenizer] = {}
    for side, ids in vocabularies.items():
        numbers = {key: _number(settings, f"{key}_token_id") for key in ("pad", "eos", "decoder_start")}
        for key in ("pad", "eos"):
            if ids.get(names[key]) != numbers[key]:
                raise InputError(
                    f"{folder}: '{names[key]}' has the {side} id {ids.get(names[key])}, config.json says {numbers[key]}"
                )
        if names["unk"] not in ids:
            raise InputError(f"{folder}: the {side} vocabulary has no '{names['unk']}'")
        special = SpecialIds(numbers["pad"], numbers["decoder_start"], numbers["eos"], ids[names["unk"]])
        model = read_spm(_bytes(folder / f"{side}.spm"), f"{folder / side}.spm")
        sides[side] = marian_tokenizer(model, ids, special, [piece for piece in literal if piece in ids])
    return Codec(sides["source"], sides["target"])


def _decoding(settings: Mapping[str, Any], spec: EncoderDecoder, target: Tokenizer) -> Decoding:
    """The checkpoint's own way to search. Their longest answer counts the start, ours does not."""
    for name, neutral in NEUTRAL.items():
        if settings.get(name, neutral) not in (neutral, None):
            raise InputError(
                f"generation_config.json sets {name} to {settings[name]!r}, which is not supported; take it out there"
            )
    never = {target.pad, target.bos, target.unk}
    for words in settings.get("bad_words_ids") or []:
        if not (isinstance(words, list) and len(words) == 1 and words[0] in never):
            raise InputError(f"generation_config.json forbids {words}; only the padding and unknown pieces can be")
    longest = settings.get("max_length") or settings.get("max_position_embeddings") or 512
    return Decoding(
        beam=int(settings.get("num_beams") or 1),
        alpha=float(1.0 if settings.get("length_penalty") is None else settings["length_penalty"]),
        penalty="power",
        ratio=0.0,
        extra=max(1, int(longest) - 1),
    )


def _optional(path: Path) -> dict[str, Any]:
    return files.read_json(path) if path.exists() else {}


def _content(token: Any) -> str:
    """A token as text or as the record of an added token."""
    if isinstance(token, dict):
        if any(token.get(flag) for flag in ("lstrip", "rstrip", "single_word")):
            raise InputError(f"tokenizer_config.json: the piece '{token.get('content')}' eats spaces; not supported")
        return str(token.get("content"))
    return str(token)


def _number(settings: Mapping[str, Any], name: str) -> int:
    value = settings.get(name)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"config.json: '{name}' must be one whole number, got {value!r}")
    return value


def _bytes(path: Path) -> bytes:
    with files.explained(path):
        if not path.is_file():
            raise InputError(f"{path} is missing")
        if path.stat().st_size > LARGEST_SPM:
            raise InputError(f"{path} has {path.stat().st_size} bytes, a vocabulary at most {LARGEST_SPM}")
        return path.read_bytes()
