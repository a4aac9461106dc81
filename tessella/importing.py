"""Importing: a public checkpoint in, a run folder out that predicts like any other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tessella import files
from tessella.decode import Decoding
from tessella.errors import InputError, did_you_mean
from tessella.models import EncoderDecoder
from tessella.recipes import ParallelText, Recipe, Translation, to_yaml
from tessella.runs import RunFolder
from tessella.spm import marian_tokenizer, read_spm
from tessella.text import Codec, SpecialIds, Tokenizer
from tessella.weights import translate
from tessella.zoo.marian import RULES, marian_spec

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
WANTED = [SAFE, "config.json", "generation_config.json", "tokenizer_config.json", "*vocab.json", "*.spm", "README.md"]
LARGEST_SPM = 64 * 2**20
UNPICKLE_SECONDS = 600
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


@dataclass(frozen=True, slots=True)
class Imported:
    """What a run is written from."""

    recipe: Recipe
    codec: Codec
    weights: dict[str, Tensor]


def import_run(source: str, out: Path, allow_pickle: bool = False) -> Path:
    """Writes the run folder `out`, which must be new, and returns it.

    source: ``hf://owner/name``, ``hf://owner/name@revision``, or a folder with the same files (config.json,
    model.safetensors, vocab.json, …). allow_pickle: read pytorch_model.bin where there is no model.safetensors, in a
    process of its own with limits. Raises InputError in one line for what is missing, unknown or does not fit.
    """
    with _fetched(source, allow_pickle) as folder:
        config = files.read_json(folder / "config.json")
        kind = str(config.get("model_type"))
        if kind not in ARCHITECTURES:
            raise InputError(
                f"{source} is a '{kind}' model, which cannot be imported{did_you_mean(kind, ARCHITECTURES)}"
            )
        weights = _weights(folder, allow_pickle)
        imported = ARCHITECTURES[kind](folder, config, weights)
        read = [path for path in sorted(folder.iterdir()) if path.is_file() and _is_wanted(path.name)]
        origin = {
            "source": source,
            "model_type": kind,
            "licence": _licence(folder / "README.md"),
            "sha256": {path.name: files.digest(path)["sha256"] for path in read},
        }
    run = RunFolder.create(out)
    run.write("codec.json", imported.codec.save)
    run.write_text("recipe.yaml", to_yaml(imported.recipe.replace(about=f"imported from {source}")))
    run.note(imported=origin)
    run.save_weights(imported.weights)
    return out


def import_cached(source: str) -> Path:
    """The run folder of a public checkpoint, imported the first time it is asked for.

    It lies in $TESSELLA_CACHE, else in ~/.cache/tessella. Raises InputError like `import_run`.
    """
    cache = Path(os.environ.get("TESSELLA_CACHE") or Path.home() / ".cache" / "tessella")
    place = cache / re.sub(r"[^\w.@-]+", "--", source.removeprefix("hf://"))
    if not (place / files.MANIFEST).is_file():
        with files.explained(cache):
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as draft:
                import_run(source, Path(draft) / "run")
                os.replace(Path(draft) / "run", place)
    return place


def import_marian(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Imported:
    """A MarianMT checkpoint of `transformers`: OPUS-MT and its like."""
    generation = _optional(folder / "generation_config.json")
    settings = {**config, **{name: value for name, value in generation.items() if value is not None}}
    spoken = _optional(folder / "tokenizer_config.json")
    spec = marian_spec(config)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in spec.build().state_dict().items()}
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
    whole = {name: tensor.float() for name, tensor in weights.items()}
    return Imported(recipe, codec, translate(whole, RULES[spec.tie], shapes))


ARCHITECTURES: dict[str, Callable[[Path, Mapping[str, Any], Mapping[str, Tensor]], Imported]] = {
    "marian": import_marian
}
"""`model_type` in config.json -> what reads the checkpoint."""


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


@contextmanager
def _fetched(source: str, allow_pickle: bool) -> Iterator[Path]:
    """The folder with the files: the given one, or the Hub's cache."""
    if not source.startswith("hf://"):
        if not Path(source).is_dir():
            raise InputError(f"no folder {source}; give one with config.json in it, or hf://owner/name")
        yield Path(source)
        return
    name, _, revision = source.removeprefix("hf://").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"'{source}' is no checkpoint's name; write hf://owner/name or hf://owner/name@revision")
    yield _download(name, revision or None, allow_pickle)


def _download(name: str, revision: str | None, allow_pickle: bool) -> Path:
    import huggingface_hub

    def fetch(patterns: list[str]) -> Path:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))

    try:
        folder = fetch(WANTED)
        if allow_pickle and not (folder / SAFE).exists():
            folder = fetch([PICKLED])
    except Exception as error:  # the Hub's client raises what four libraries raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"hf://{name} could not be fetched ({reason}); give a folder with its files instead") from None
    return folder


def _is_wanted(name: str) -> bool:
    return name == PICKLED or any(Path(name).match(pattern) for pattern in WANTED)


def _weights(folder: Path, allow_pickle: bool) -> dict[str, Tensor]:
    if (folder / SAFE).is_file():
        return files.read_tensors(folder / SAFE)
    if not (folder / PICKLED).is_file():
        raise InputError(f"{folder} has no {SAFE}; checkpoints in several parts or other formats are not read")
    if not allow_pickle:
        raise InputError(
            f"{folder} has no {SAFE}, only {PICKLED}, a pickle, which can run code when it is read; if you trust its "
            "author, say --allow-pickle"
        )
    with tempfile.TemporaryDirectory() as draft:
        converted = Path(draft) / SAFE
        command = [sys.executable, "-c", "from tessella.importing import unpickle; unpickle()"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
        try:
            done = subprocess.run(  # noqa: S603  our own interpreter and code; the paths are data
                [*command, str(folder / PICKLED), str(converted)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=UNPICKLE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"{folder / PICKLED} took longer than {UNPICKLE_SECONDS} s to read") from None
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["it was stopped"])[-1][:200]
            raise InputError(f"{folder / PICKLED} could not be read safely: {reason}")
        return files.read_tensors(converted)


def unpickle() -> None:
    """The child process: arguments are a .bin file and the .safetensors file to write; tensors only, in limits."""
    read, write = Path(sys.argv[1]), Path(sys.argv[2])
    size = read.stat().st_size
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (UNPICKLE_SECONDS, UNPICKLE_SECONDS))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size + 2**20,) * 2)
        resource.setrlimit(resource.RLIMIT_DATA, (4 * size + 4 * 2**30,) * 2)
    state = torch.load(read, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        sys.exit("it holds something else than named tensors")
    files.save_tensors(write, state)


def _licence(card: Path) -> str | None:
    """What the model card's head says."""
    if not card.is_file():
        return None
    head = card.read_text(encoding="utf-8", errors="replace")[:10_000]
    found = re.search(r"^license:\s*(.+)$", head, flags=re.MULTILINE)
    return found[1].strip().strip("'\"") if found else None


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
