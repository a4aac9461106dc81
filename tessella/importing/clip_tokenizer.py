"""CLIP tokenizer: its byte-level pieces in the files of transformers, read and written."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from tessella import files
from tessella.errors import InputError
from tessella.text import SpecialIds, Tokenizer

WHOLE, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
SPOKEN, OLDER = "tokenizer_config.json", "special_tokens_map.json"
LARGEST_MERGES = 64 * 2**20
ANY = "PreTrainedTokenizerFast"
"""The class of transformers for whatever a tokenizer.json says."""
END_OF_WORD = "</w>"
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What pieces never reach across: English endings, letters, single digits, anything else."""


class Texts(NamedTuple):
    """How texts become ids: the tokenizer, and the id in front of every text, if there is one."""

    tokenizer: Tokenizer
    begin: int | None


def read_tokenizer(folder: Path) -> Texts:
    """The tokenizer of a CLIP in a folder of `transformers`: tokenizer.json, or vocab.json and merges.txt.

    Ids are those of CLIPTokenizer, which reads "<|endoftext|>" in a text as the end. OpenAI's own code differs where
    HTML entities or damaged Unicode stand in a text: it mends those first. A tokenizer.json of another kind, for
    PreTrainedTokenizerFast, is taken as it is. Raises InputError in one line where a file
    is missing or describes another kind of tokenizer.
    """
    spoken = next((files.read_json(folder / name) for name in (SPOKEN, OLDER) if (folder / name).is_file()), {})
    if spoken.get("tokenizer_class") == ANY:
        return _other(folder / WHOLE, spoken)
    if (folder / WHOLE).is_file():
        ids, merges, literal = _whole(folder / WHOLE)
    else:
        ids, merges, literal = files.read_json(folder / VOCABULARY), read_merges(folder / MERGES), {}
    if spoken.get("do_lower_case") is False:
        raise InputError(f"{folder / SPOKEN} keeps upper case, which CLIP's tokenizer does not")
    names = {key: piece_named(spoken.get(f"{key}_token") or usual) for key, usual in USUAL.items()}
    missing = next((name for name in names.values() if name not in ids), None)
    if missing is not None:
        raise InputError(f"{folder}: the vocabulary has no '{missing}'")
    flags = {name: literal.get(name, False) for name in (*literal, *dict.fromkeys(names.values()))}
    special = SpecialIds(*(ids[names[key]] for key in ("pad", "bos", "eos", "unk")))
    return Texts(clip_tokenizer(ids, merges, special, flags), special.bos)


def read_openai(path: Path, vocab: int) -> Texts:
    """The tokenizer of OpenAI's code: `bpe_simple_vocab_16e6.txt.gz`, of which the first merges are used.

    vocab: how many pieces there are in all. Texts are read as CLIPTokenizer does; see `read_tokenizer`.
    """
    merges = read_merges(path)[: vocab - 2 * len(BYTES) - 2]
    pieces = [*BYTES, *(byte + END_OF_WORD for byte in BYTES), *("".join(pair) for pair in merges), BEGIN, END]
    ids = {piece: number for number, piece in enumerate(pieces)}
    if len(ids) != vocab:
        raise InputError(f"{path} gives {len(ids)} pieces, but the model's vocabulary has {vocab}")
    special = SpecialIds(pad=ids[END], bos=ids[BEGIN], eos=ids[END], unk=ids[END])
    return Texts(clip_tokenizer(ids, merges, special, {BEGIN: False, END: False}), special.bos)


def _bytes() -> tuple[str, ...]:
    """The 256 bytes as visible characters, in the order of CLIP's ids: those that are visible themselves come first."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return (*map(chr, visible), *(chr(256 + n) for n in range(len(hidden))))


BYTES = _bytes()
USUAL = {"pad": END, "bos": BEGIN, "eos": END, "unk": END}
"""The pieces with a meaning of their own where no file names them."""


def clip_tokenizer(
    ids: Mapping[str, int], merges: Sequence[tuple[str, str]], special: SpecialIds, literal: Mapping[str, bool]
) -> Tokenizer:
    """Pieces and their merges as a tokenizer. literal: pieces that a text may spell out -> in lower case too."""
    try:
        engine = tokenizers.Tokenizer(
            models.BPE(
                dict(ids),
                list(merges),
                unk_token=next(piece for piece, number in ids.items() if number == special.unk),
                continuing_subword_prefix="",
                end_of_word_suffix=END_OF_WORD,
            )
        )
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"the vocabulary and its merges do not fit together: {str(error)[:200]}") from None
    engine.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    engine.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(END_OF_WORD, " "), decoders.Fuse()])
    # Not "special" to the engine: our Tokenizer reads those as plain text, where nothing spells a special piece.
    engine.add_tokens([AddedToken(piece, normalized=lower, special=False) for piece, lower in literal.items()])
    return Tokenizer(json.loads(engine.to_str()), special)


def is_clip(tokenizer: Tokenizer) -> bool:
    """Whether pieces are cut and merged as CLIP's are."""
    return tokenizer.model["model"].get("end_of_word_suffix") == END_OF_WORD and tokenizer.ids is None


def moved(tokenizer: Tokenizer, end: int) -> Tokenizer:
    """The same tokenizer, whose end has another id; the piece that had it gets the old one."""
    if tokenizer.ids is not None:
        raise InputError("a tokenizer with a numbering of its own, such as Marian's, has no place in this layout")
    ways = {tokenizer.eos: end, end: tokenizer.eos}
    data = json.loads(json.dumps(tokenizer.model))
    vocab = data["model"]["vocab"]
    if isinstance(vocab, dict):
        data["model"]["vocab"] = {piece: ways.get(number, number) for piece, number in vocab.items()}
    else:
        vocab[tokenizer.eos], vocab[end] = vocab[end], vocab[tokenizer.eos]
    for token in data["added_tokens"]:
        token["id"] = ways.get(token["id"], token["id"])
    special = {name: ways.get(number, number) for name, number in asdict(tokenizer.special).items()}
    return Tokenizer(data, SpecialIds(**special))


def write_tokenizer(texts: Texts, length: int, folder: Path) -> None:
    """The files that transformers reads: of CLIP's kind, or of any other. length: ids of a text at most."""
    tokenizer = texts.tokenizer
    special = {"bos": tokenizer.bos, "eos": tokenizer.eos, "unk": tokenizer.unk, "pad": tokenizer.pad}
    names = {key: tokenizer.vocabulary[number] for key, number in special.items()}
    kind = "CLIPTokenizer" if is_clip(tokenizer) else ANY
    told = {f"{key}_token": name for key, name in names.items() if key != "bos" or texts.begin is not None}
    files.write_json(folder / SPOKEN, {"tokenizer_class": kind, "model_max_length": length, **told})
    if not is_clip(tokenizer):
        engine = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.model))
        begin = "" if texts.begin is None else f"{tokenizer.vocabulary[texts.begin]} "
        engine.post_processor = processors.TemplateProcessing(
            single=f"{begin}$A {names['eos']}",
            special_tokens=[(names["eos"], tokenizer.eos), *([(begin.strip(), texts.begin)] if begin else [])],
        )
        files.write_text(folder / WHOLE, engine.to_str())
        return
    model = tokenizer.model["model"]
    files.write_json(folder / VOCABULARY, model["vocab"])
    lines = ["#version: 0.2", *(pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])]
    files.write_text(folder / MERGES, "\n".join(lines) + "\n")


def _whole(path: Path) -> tuple[dict[str, int], list[tuple[str, str]], dict[str, bool]]:
    """Ids, merges and literal pieces of a tokenizer.json, which must be of CLIP's kind."""
    data = files.read_json(path)
    model, added = data.get("model"), data.get("added_tokens") or []
    if not isinstance(model, Mapping) or not isinstance(added, list):
        raise InputError(f"{path} has no model of pieces; expected the file of a tokenizer")
    if model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != END_OF_WORD:
        raise InputError(f"{path} is no tokenizer of CLIP's kind: byte-level BPE whose words end in '{END_OF_WORD}'")
    ids = model.get("vocab")
    if not isinstance(ids, dict):
        raise InputError(f"{path}: 'vocab' must be a mapping from pieces to ids")
    literal = {}
    for token in added:
        if not isinstance(token, Mapping) or ids.get(str(token.get("content"))) != token.get("id"):
            raise InputError(f"{path} adds {str(token)[:80]}, which is not in its vocabulary; not supported")
        literal[piece_named(token)] = bool(token.get("normalized"))
    return ids, [_pair(line, f"{path}: merge {n}") for n, line in enumerate(model.get("merges") or [])], literal


def _other(path: Path, spoken: Mapping[str, Any]) -> Texts:
    """A tokenizer.json of any kind; which pieces are special is what tokenizer_config.json says."""
    data = files.read_json(path)
    added, model = data.get("added_tokens") or [], data.get("model")
    if not isinstance(model, Mapping) or not isinstance(added, list):
        raise InputError(f"{path} has no model of pieces; expected the file of a tokenizer")
    vocab = model.get("vocab")
    if isinstance(vocab, list):
        vocab = {str(piece[0]): number for number, piece in enumerate(vocab)}
    numbers = {**(vocab or {}), **{token["content"]: token["id"] for token in added}}
    names = {key: spoken.get(f"{key}_token") for key in ("pad", "bos", "eos", "unk")}
    missing = next((key for key in ("pad", "eos", "unk") if numbers.get(piece_named(names[key])) is None), None)
    if missing is not None:
        raise InputError(
            f"{path.parent / SPOKEN}: '{missing}_token' is {names[missing]!r}, which is not in {path.name}"
        )
    pad, eos, unk = (numbers[piece_named(names[key])] for key in ("pad", "eos", "unk"))
    begin = numbers.get(piece_named(names["bos"])) if names["bos"] is not None else None
    plain = {**data, "post_processor": None, "added_tokens": [{**token, "special": False} for token in added]}
    return Texts(Tokenizer(plain, SpecialIds(pad, eos if begin is None else begin, eos, unk)), begin)


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Two pieces a line, under a first line that names a version; the file may be packed (.gz)."""
    with files.explained(path):
        if not path.is_file():
            raise InputError(f"there is no file {path} with the merges of a tokenizer")
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                data = file.read(LARGEST_MERGES + 1)
        except (EOFError, zlib.error) as error:
            raise InputError(f"{path} is no whole .gz file: {error}") from None
    if len(data) > LARGEST_MERGES:
        raise InputError(f"{path} has more than the {LARGEST_MERGES} bytes that are read")
    lines = data.decode("utf-8", "replace").split("\n")
    start = 1 if lines[0].startswith(("#version", '"bpe_simple_vocab')) else 0
    return [_pair(line, f"{path}: line {n + 1}") for n, line in enumerate(lines) if n >= start and line.strip()]


def _pair(line: Any, where: str) -> tuple[str, str]:
    parts = line.split() if isinstance(line, str) else line
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise InputError(f"{where} must be two pieces, got {str(line)[:60]!r}")
    return parts[0], parts[1]


def piece_named(token: Any) -> str:
    """A token as text or as the record of an added token."""
    if isinstance(token, Mapping):
        if any(token.get(flag) for flag in ("lstrip", "rstrip", "single_word")):
            raise InputError(f"the piece '{token.get('content')}' eats spaces; not supported")
        return str(token.get("content"))
    return str(token)
