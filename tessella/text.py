"""Text: sentences become token ids and ids become sentences again, by one codec file."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tokenizers
from pydantic import Field

from tessella.errors import InputError
from tessella.pieces import BYTES, ESCAPED_SPACE, SPACE, train_pieces
from tessella.spec import Spec, spec

FORMAT = 1
LARGEST_FILE = 64 * 2**20
LARGEST_ID = 2**21
PROBE = "a \U0010fffd"  # a damaged tokenizer fails at an unknown character
_BYTE_VALUE = {piece: value for value, piece in enumerate(BYTES)}


@spec("codec")
class CodecSpec(Spec):
    """How to train a codec. ``size`` is the vocabulary a side may have at most; little data gives less."""

    method: Literal["bpe", "unigram"] = "bpe"
    size: int = Field(8000, ge=300, le=1_000_000)
    shared: bool = True
    lowercase: bool = False


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """The ids with a meaning of their own. Decoding starts with ``bos``, which may equal ``pad`` (Marian)."""

    pad: int = 0
    bos: int = 1
    eos: int = 2
    unk: int = 3


class Tokenizer:
    """One side of a codec: sentences in, ids out, and back.

    ``model`` is the content of a tokenizer.json. ``special`` gives the special ids. ``ids`` (piece to id) replaces the
    numbers of ``model`` for imported vocabularies that order the pieces in their own way; a piece without a number is
    unk. Raises InputError where these do not fit together.
    """

    def __init__(
        self, model: Mapping[str, Any], special: SpecialIds | None = None, ids: Mapping[str, int] | None = None
    ):
        self.model = dict(model)
        self.special = special or SpecialIds()
        self.ids = dict(ids) if ids is not None else None
        self.pad, self.bos, self.eos, self.unk = (_a_number(v, k) for k, v in asdict(self.special).items())
        self._engine = _engine(self.model)
        vocabulary = self._engine.get_vocab(with_added_tokens=True)
        numbers = self.ids if self.ids is not None else vocabulary
        self._piece = {_a_number(number, piece): piece for piece, number in numbers.items()}
        if len(self._piece) < len(numbers):
            raise InputError("two pieces of the tokenizer have the same id")
        self.size: int = max(self._piece, default=-1) + 1
        for name, number in asdict(self.special).items():
            if number >= self.size:
                raise InputError(f"the tokenizer's {name} is {number}, outside its {self.size} ids")
        self._outer: list[int] | None = None
        if self.ids is not None:
            self._outer = [self.unk] * (max(vocabulary.values(), default=-1) + 1)
            for piece, number in vocabulary.items():
                self._outer[number] = self.ids.get(piece, self.unk)
        self.fingerprint: str = _fingerprint(self.to_dict())

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Sentences to ids, each row ending with eos, without bos. Half surrogate pairs become U+FFFD."""
        if isinstance(texts, str):
            raise InputError("encode takes a list of sentences, not one string; give [text]")
        rows = [e.ids for e in self._engine.encode_batch_fast(_encodable(texts), add_special_tokens=False)]
        outer = self._outer
        if outer is not None:
            rows = [[outer[i] for i in row] for row in rows]
        return [[*row, self.eos] for row in rows]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Rows of ids to sentences: special ids dropped, always one line (white space collapsed).

        Byte pieces that are no UTF-8 (only a model writes them) become U+FFFD. Raises InputError for unknown ids.
        """
        drop = {self.pad, self.bos, self.eos, self.unk}
        decoder = self._engine.decoder
        sentences = []
        for row in ids:
            text = decoder.decode([self._named(int(i)) for i in row if int(i) not in drop])
            sentences.append(" ".join(text.split()))
        return sentences

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """One readable label for each id, for pictures.

        The byte pieces of a character show it at the first of them and "·" at the others; special ids are named.
        """
        names = {self.unk: "<unk>", self.pad: "<pad>", self.bos: "<bos>", self.eos: "<eos>"}
        if self.pad == self.bos:
            names[self.pad] = "<pad>"
        labels = [names.get(int(i)) or self._named(int(i)) for i in ids]
        start = 0
        while start < len(labels):
            run = start
            while run < len(labels) and labels[run] in _BYTE_VALUE:
                run += 1
            labels[start:run] = _spell(bytes(_BYTE_VALUE[label] for label in labels[start:run]))
            start = max(run, start + 1)
        return [_visible(label) for label in labels]

    @property
    def vocabulary(self) -> list[str]:
        """All pieces in the order of their ids, as stored; an id without a piece is an empty string."""
        return [self._piece.get(i, "") for i in range(self.size)]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; ``Tokenizer.from_dict`` reads it."""
        return {"tokenizer": self.model, "special": asdict(self.special), "ids": self.ids}

    @classmethod
    def from_dict(cls, data: Any) -> Tokenizer:
        """The other direction of ``to_dict``. Raises InputError for anything else."""
        if not isinstance(data, dict) or set(data) != {"tokenizer", "special", "ids"}:
            raise InputError("a side of the codec needs the fields 'tokenizer', 'special' and 'ids'")
        model, special, ids = data["tokenizer"], data["special"], data["ids"]
        if not isinstance(model, dict) or not (ids is None or isinstance(ids, dict)):
            raise InputError("a side of the codec has a 'tokenizer' or 'ids' that is not a mapping")
        if not isinstance(special, dict) or set(special) != {"pad", "bos", "eos", "unk"}:
            raise InputError("the codec's special ids must be pad, bos, eos and unk")
        return cls(model, SpecialIds(**special), ids)

    def __reduce__(self) -> tuple[Any, ...]:
        # The engine forgets in a pickle that special tokens are plain text to it, so it is made anew.
        return type(self), (self.model, self.special, self.ids)

    def _named(self, number: int) -> str:
        if number not in self._piece:
            raise InputError(f"the codec has no piece with id {number}; it has {self.size} ids: another codec's ids?")
        return self._piece[number]


class Codec:
    """Both sides of a translation: ``source`` and ``target`` tokenizers, the same object where ``shared``."""

    def __init__(self, source: Tokenizer, target: Tokenizer | None = None):
        self.source = source
        self.target = source if target is None else target
        self.shared: bool = self.target is self.source
        self.fingerprint: str = _fingerprint(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, the content of codec.json."""
        target = None if self.shared else self.target.to_dict()
        return {"format": FORMAT, "shared": self.shared, "source": self.source.to_dict(), "target": target}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write codec.json, whole or not at all. Equal codecs give equal bytes."""
        path = Path(path)
        draft = path.with_name(path.name + ".part")
        draft.write_bytes(_canonical(self.to_dict()))
        os.replace(draft, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Codec:
        """Read codec.json. Raises InputError in one line where the file is missing, too large, damaged or no codec."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"no codec at {path}; expected a codec.json file")
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"{path} is larger than the {LARGEST_FILE} bytes a codec may have; not a codec.json?")
        try:
            data = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            raise InputError(f"{path} is not a codec.json, or is damaged: it is not JSON") from None
        if not isinstance(data, dict) or set(data) != {"format", "shared", "source", "target"}:
            raise InputError(f"{path} is not a codec.json: needs the fields format, shared, source and target")
        if data["format"] != FORMAT:
            raise InputError(f"{path} has codec format {str(data['format'])[:20]}; this version reads format {FORMAT}")
        if data["shared"] is not (data["target"] is None):
            raise InputError(f"{path} is damaged: 'shared' does not fit 'target'")
        try:
            source = Tokenizer.from_dict(data["source"])
            return cls(source, None if data["shared"] else Tokenizer.from_dict(data["target"]))
        except InputError as error:
            raise InputError(f"{path} is not usable: {error}") from None


def train_codec(how: CodecSpec, source: Iterable[str], target: Iterable[str]) -> Codec:
    """Learn the pieces from sentences of both sides. The same sentences, in any order, give the same codec.

    Raises InputError where a side has no text.
    """
    counts = [_count_words(source, "source", how.lowercase), _count_words(target, "target", how.lowercase)]

    def train_one(words: Counter[str]) -> Tokenizer:
        return Tokenizer(train_pieces(words, how.method, how.size, how.lowercase))

    if how.shared:
        return Codec(train_one(counts[0] + counts[1]))
    return Codec(train_one(counts[0]), train_one(counts[1]))


def _count_words(texts: Iterable[str], side: str, lowercase: bool) -> Counter[str]:
    if isinstance(texts, str):
        raise InputError(f"the {side} text must be a list of sentences, not one string")
    words: Counter[str] = Counter()
    for text in texts:
        text = unicodedata.normalize("NFC", text)
        words.update((text.lower() if lowercase else text).split())
    if not words:
        raise InputError(f"the {side} side has no text to learn a vocabulary from")
    return words


def _spell(run: bytes) -> list[str]:
    """One label for each byte: the character at its first byte, "·" at the others, "<E2>" for what is no UTF-8."""
    labels: list[str] = []
    while len(labels) < len(run):
        rest = run[len(labels) :]
        for width in (1, 2, 3, 4):
            try:
                character = rest[:width].decode("utf-8")
            except UnicodeDecodeError:
                continue
            labels += [character, *["·"] * (len(rest[:width]) - 1)]
            break
        else:
            labels.append(f"<{rest[0]:02X}>")
    return labels


def _visible(label: str) -> str:
    label = label.replace(ESCAPED_SPACE, SPACE)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in label)


def _engine(model: Mapping[str, Any]) -> tokenizers.Tokenizer:
    try:
        engine = tokenizers.Tokenizer.from_str(json.dumps(model))
        engine.encode(PROBE, add_special_tokens=False)
    except BaseException as error:  # the library raises plain Exception, and its panics are not even that
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the codec's tokenizer cannot be read: {reason}") from None
    if engine.decoder is None:
        raise InputError("the codec's tokenizer has no decoder, so that its ids cannot become text")
    engine.no_truncation()
    engine.no_padding()
    engine.encode_special_tokens = True
    return engine


def _encodable(texts: list[str]) -> list[str]:
    """The same texts, with half surrogate pairs (possible in a Python string, not in UTF-8) replaced."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return [t.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for t in texts]
    return texts


def _a_number(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < LARGEST_ID:
        raise InputError(f"the id of '{name[:40]}' must be a number from 0 to {LARGEST_ID - 1}, got {str(value)[:40]}")
    return value


def _canonical(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _fingerprint(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(data)).hexdigest()
