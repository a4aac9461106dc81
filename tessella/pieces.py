"""Pieces: the vocabulary learned from words, and the rules that cut text into it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
SPACE = "▁"
BYTES = tuple(f"<0x{value:02X}>" for value in range(256))
# The white space of str.split(), spelled out because the regular expressions' \s is another set.
WHITE_SPACE = "".join(chr(c) for c in range(0x110000) if chr(c).isspace())
# A literal ▁ would come back as a blank, so it travels as two characters (and the first of these as two as well).
ESCAPE, ESCAPED_ESCAPE, ESCAPED_SPACE = "\x1a", "\x1a0", "\x1a1"
# Letters, digits and the rest never share a piece ("Mann." is "Mann" + "."). "<" is always alone, so that no text can
# spell a special piece or a byte piece such as "</s>" or "<0x41>". U+200C and U+200D join letters of one word.
CUTS = (r"<", r"\p{L}[\p{L}\p{M}\x{200C}\x{200D}]*", r"\p{N}+", rf"[^\p{{L}}\p{{N}}{SPACE}<]+")
PIECE_BORDERS = "|".join(f"{SPACE}?{cut}" for cut in CUTS)


def train_pieces(words: Counter[str], method: Literal["bpe", "unigram"], size: int, lowercase: bool) -> dict[str, Any]:
    """Learn at most ``size`` pieces from words (no white space in them) and their counts; gives a tokenizer.json.

    The first ids are the special pieces and the 256 bytes, which spell whatever the learned pieces cannot.
    """
    free = size - len(SPECIAL) - len(BYTES)
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    # Rare characters are left to the bytes, and the alphabet may take half of the pieces (Korean has many syllables).
    common = sorted((c for c, n in characters.items() if n > 1), key=lambda c: (-characters[c], c))[: free // 2]
    engine = tokenizers.Tokenizer(models.BPE() if method == "bpe" else models.Unigram())
    engine.normalizer, engine.pre_tokenizer, engine.decoder = _pipeline(lowercase)
    settings: dict[str, Any] = {"vocab_size": free, "show_progress": False, "initial_alphabet": [SPACE]}
    trainer = (
        trainers.BpeTrainer(min_frequency=2, max_token_length=16, **settings)
        if method == "bpe"
        else trainers.UnigramTrainer(unk_token=None, max_piece_length=16, **settings)
    )
    engine.train_from_iterator(_repeated(words, set(common)), trainer)
    data = json.loads(engine.to_str())
    data["added_tokens"] = []
    data["model"] = _finish_bpe(data["model"]) if method == "bpe" else _finish_unigram(data["model"], characters)
    return data


def _repeated(words: Counter[str], alphabet: set[str]) -> Iterator[str]:
    """The words as often as they were seen, in a fixed order and few strings; other characters are cut out."""
    for word in sorted(words):
        kept = word if alphabet.issuperset(word) else "".join(c if c in alphabet else " " for c in word)
        for start in range(0, words[word], 1000):
            yield " ".join([kept] * min(1000, words[word] - start))


def _pipeline(lowercase: bool) -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer, decoders.Decoder]:
    white = "".join(rf"\x{{{ord(c):X}}}" for c in WHITE_SPACE)
    normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            *([normalizers.Lowercase(), normalizers.NFC()] if lowercase else []),
            normalizers.Replace(tokenizers.Regex(f"[{white}]+"), " "),
            normalizers.Strip(),
            normalizers.Replace(ESCAPE, ESCAPED_ESCAPE),
            normalizers.Replace(SPACE, ESCAPED_SPACE),
        ]
    )
    pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=True),
            pre_tokenizers.Split(tokenizers.Regex(PIECE_BORDERS), "isolated"),
        ]
    )
    decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
            decoders.Replace(ESCAPED_SPACE, SPACE),
            decoders.Replace(ESCAPED_ESCAPE, ESCAPE),
        ]
    )
    return normalizer, pre_tokenizer, decoder


def _finish_bpe(model: dict[str, Any]) -> dict[str, Any]:
    """Special and byte pieces get the first ids, the learned pieces follow in the order they were learned."""
    first = [*SPECIAL, *BYTES]
    learned = sorted(model["vocab"], key=model["vocab"].__getitem__)
    vocabulary = {piece: number for number, piece in enumerate([*first, *learned])}
    return model | {"vocab": vocabulary, "unk_token": "<unk>", "byte_fallback": True}


def _finish_unigram(model: dict[str, Any], characters: Counter[str]) -> dict[str, Any]:
    """The same for Unigram, whose trainer scores the characters outside its model in the order of a hash table.

    These scores are ``lowest + k / 10,000``: they are dealt out again, to the more frequent characters first.
    """
    scores = {piece: round(score, 6) for piece, score in model["vocab"]}
    lowest = min(scores.values())
    steps = {piece: (score - lowest) * 1e4 for piece, score in scores.items() if len(piece) == 1}
    tail = sorted((p for p, s in steps.items() if abs(s - round(s)) < 1e-3), key=lambda p: (-characters[p], p))
    for piece, score in zip(tail, sorted((scores[p] for p in tail), reverse=True), strict=True):
        scores[piece] = score
    first = [[piece, 0.0] for piece in (*SPECIAL, *BYTES)]
    learned = sorted(([p, s] for p, s in scores.items()), key=lambda item: (-item[1], item[0]))
    return model | {"vocab": first + learned, "unk_id": SPECIAL.index("<unk>"), "byte_fallback": True}
