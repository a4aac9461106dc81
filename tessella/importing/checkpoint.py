"""Importing: a public checkpoint in, a run folder out that predicts like any other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tessella import files
from tessella.errors import InputError, did_you_mean
from tessella.importing.clip import TOGETHER, import_clip, import_clip_layout
from tessella.importing.clip_tokenizer import MERGES, OLDER, WHOLE
from tessella.importing.imported import Imported
from tessella.importing.language import import_bert, import_gpt2
from tessella.importing.language_tokenizers import WORDS
from tessella.importing.marian import import_marian
from tessella.importing.preprocessors import FILE as PREPROCESSOR
from tessella.importing.vision import PAGES, import_layout, import_timm, import_transformers, relabelled
from tessella.recipes.named import to_yaml
from tessella.runs import RunFolder
from tessella.zoo import clip

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
WANTED = [SAFE, "config.json", "generation_config.json", "tokenizer_config.json", "*vocab.json", "*.spm", "README.md"]
WANTED += [PREPROCESSOR, TOGETHER, WHOLE, MERGES, OLDER, WORDS]
UNPICKLE_SECONDS = 600
LARGEST_ARRAYS = 16 * 2**30
INSIDE = ("model", "state_dict")
"""Where training scripts put the weights among other things."""

ARCHITECTURES: dict[str, Callable[[Path, Mapping[str, Any], Mapping[str, Tensor]], Imported]] = {
    "marian": import_marian,
    "clip": import_clip,
    "bert": import_bert,
    "gpt2": import_gpt2,
    **dict.fromkeys(PAGES, import_transformers),
}
"""`model_type` in config.json -> what reads the checkpoint."""


def import_run(
    source: str | Path,
    out: Path,
    allow_pickle: bool = False,
    labels: Path | None = None,
    layout: str | None = None,
    model: str | None = None,
    codec: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Writes the run folder `out`, which must be new, and returns it.

    source: ``hf://owner/name``, ``hf://owner/name@revision``, or a folder with the same files (config.json,
    model.safetensors, vocab.json or preprocessor_config.json, …); or one file of weights (.safetensors, .npz, or a
    pickle such as .pth), which needs the name of its model and its layout ("microsoft", "torchvision", "timm", …).
    allow_pickle: read pytorch_model.bin where there is no model.safetensors, or a file that is a pickle, in a process
    of its own with limits. labels: a file of class names, one a line, instead of those of the checkpoint. codec: where
    the tokenizer of one file's text tower is (see `import_clip_layout`). say: gets a line for all that is not as in the
    checkpoint. Raises InputError in one line for what is missing, unknown or does
    not fit.
    """
    names = None if labels is None else _names(labels)
    if Path(source).is_file():
        if layout is None or model is None:
            raise InputError(f"{source} is one file; say with --layout and --model what it holds (`tessella models`)")
        tensors = _tensors(Path(source), allow_pickle)
        if model in clip.VARIANTS:
            imported = import_clip_layout(model, layout, tensors, codec)
        else:
            imported = import_layout(model, layout, tensors)
        origin = {"layout": layout, "model": model, "licence": imported.facts.get("licence")}
        origin["sha256"] = {Path(source).name: files.digest(Path(source))["sha256"]}
    else:
        if layout or model or codec:
            raise InputError(f"--layout, --model and --codec are for one file of weights; {source} is none")
        with _fetched(str(source), allow_pickle) as folder:
            imported, origin = _read(folder, str(source), allow_pickle)
    imported = imported if names is None else relabelled(imported, names)
    run = RunFolder.create(out)
    for name, writer in imported.files.items():
        run.write(name, writer)
    run.write_text("recipe.yaml", to_yaml(imported.recipe.replace(about=f"imported from {source}")))
    run.note(imported={"source": str(source), **origin, "notes": imported.notes})
    run.save_weights(imported.weights)
    for note in imported.notes:
        say(note)
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


def _read(folder: Path, source: str, allow_pickle: bool) -> tuple[Imported, dict[str, Any]]:
    """What is in a checkpoint's folder, and what the manifest says of it."""
    config = files.read_json(folder / "config.json")
    timm = "architecture" in config and "model_type" not in config
    kind = str(config.get("architecture" if timm else "model_type"))
    if not timm and kind not in ARCHITECTURES:
        raise InputError(f"{source} is a '{kind}' model, which cannot be imported{did_you_mean(kind, ARCHITECTURES)}")
    imported = (import_timm if timm else ARCHITECTURES[kind])(folder, config, _weights(folder, allow_pickle))
    read = [path for path in sorted(folder.iterdir()) if path.is_file() and _is_wanted(path.name)]
    return imported, {
        "model_type": kind,
        "licence": _licence(folder / "README.md") or imported.facts.get("licence"),
        "sha256": {path.name: files.digest(path)["sha256"] for path in read},
    }


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
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fetch(patterns: list[str]) -> Path:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))

    try:
        folder = fetch(WANTED)
        if allow_pickle and not (folder / SAFE).exists():
            folder = fetch([PICKLED])
    except LocalEntryNotFoundError:
        raise InputError(
            f"hf://{name} could not be fetched (no way to the Hub, and it was not fetched before); "
            "give a folder with its files instead"
        ) from None
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
    return _tensors(folder / PICKLED, allow_pickle)


def _tensors(path: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """The tensors of one file by name."""
    if path.suffix == ".safetensors":
        return files.read_tensors(path)
    if path.suffix == ".npz":
        return _arrays(path)
    if not allow_pickle:
        raise InputError(
            f"{path} is a pickle, which can run code when it is read; if you trust its author, say --allow-pickle "
            f"(there is no {SAFE})"
        )
    with tempfile.TemporaryDirectory() as draft:
        converted = Path(draft) / SAFE
        command = [sys.executable, "-c", "from tessella.importing.checkpoint import unpickle; unpickle()"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
        try:
            done = subprocess.run(  # noqa: S603  our own interpreter and code; the paths are data
                [*command, str(path), str(converted)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=UNPICKLE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"{path} took longer than {UNPICKLE_SECONDS} s to read") from None
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["it was stopped"])[-1][:200]
            raise InputError(f"{path} could not be read safely: {reason}")
        return files.read_tensors(converted)


def unpickle() -> None:
    """The child process: arguments are a pickle and the .safetensors file to write; tensors only, in limits."""
    read, write = Path(sys.argv[1]), Path(sys.argv[2])
    size = read.stat().st_size
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (UNPICKLE_SECONDS, UNPICKLE_SECONDS))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size + 2**20,) * 2)
        resource.setrlimit(resource.RLIMIT_DATA, (4 * size + 4 * 2**30,) * 2)
    state = torch.load(read, map_location="cpu", weights_only=True)
    for name in INSIDE:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        sys.exit("it holds something else than named tensors")
    files.save_tensors(write, state)


def _arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of a NumPy archive, none of which may be a pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_ARRAYS:
                raise InputError(f"{path} unpacks to more than {LARGEST_ARRAYS} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no whole .npz file of numbers: {str(error)[:100]}") from None


def _names(path: Path) -> list[str]:
    """Class names, one a line."""
    with files.explained(path):
        if not path.is_file():
            raise InputError(f"there is no file {path} with class names, one a line")
        if path.stat().st_size > files.JSON_LIMIT:
            raise InputError(f"{path} is longer than the {files.JSON_LIMIT} bytes that are read")
        names = path.read_bytes().decode("utf-8-sig", "replace").splitlines()
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        raise InputError(f"{path}: line {names.index('') + 1 if names else 1} is empty; every class needs a name")
    return names


def _licence(card: Path) -> str | None:
    """What the model card's head says."""
    if not card.is_file():
        return None
    head = card.read_text(encoding="utf-8", errors="replace")[:10_000]
    found = re.search(r"^license:\s*(.+)$", head, flags=re.MULTILINE)
    return found[1].strip().strip("'\"") if found else None
