"""Translation: the task: sentence pairs and a recipe in, a run folder with a translator out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tessella.data.batches import TokenBatches
from tessella.data.pairs import PairData, stream
from tessella.data.parallel import Columns, Pair, read_parallel, read_split
from tessella.data.quarantine import Quarantine
from tessella.decode import Decoding
from tessella.errors import InputError
from tessella.learner import learn
from tessella.lesson import Lesson
from tessella.models import Model
from tessella.processes import launch, seed_all
from tessella.recipes.named import to_yaml
from tessella.recipes.translation import ParallelText, Translation
from tessella.runs import RunFolder
from tessella.scores import score
from tessella.text import Codec, train_codec
from tessella.translator import Translator


def train(
    recipe: Translation, data: Path, out: Path, resume: bool = False, say: Callable[[str], None] = print
) -> Mapping[str, Any]:
    """Trains, or goes on with a training (resume), and leaves a complete run in `out`.

    data: a folder or a table, see `ParallelText`. Returns the metric reached: {"metric", "best", "step"}. Raises
    InputError for unusable data; Interrupted after Ctrl-C, with everything saved.
    """
    fabric = launch(recipe.loop)
    quarantine = Quarantine()
    pairs, validation = read_pairs(recipe.data, data, quarantine, recipe.loop.seed)
    fingerprint = _fingerprint(pairs)
    if fabric.is_global_zero:
        run = RunFolder.resume(out) if resume else RunFolder.create(out)
        codec = _prepare(run, recipe, pairs, quarantine, {"path": str(data), "sha256": fingerprint}, resume)
        say(
            f"{len(pairs):,} pairs to learn from, {len(validation):,} to validate, {len(quarantine):,} set aside; "
            f"{codec.source.size:,} source and {codec.target.size:,} target pieces"
        )
    fabric.barrier()
    run, codec = RunFolder(out), Codec.load(out / "codec.json")
    seed_all(recipe.loop.seed, 0)
    model = with_vocabulary(recipe.model, codec).build()
    if fabric.is_global_zero:
        say(f"{sum(p.numel() for p in model.parameters()):,} parameters on {fabric.device}")
    lesson = lesson_of(recipe, model, codec, pairs, validation)
    standing = learn(lesson, run, recipe.loop, recipe.optimizer, recipe.schedule, fabric)
    if fabric.is_global_zero:
        say(f"done: {out} ({recipe.loop.metric} {standing.best:.2f} on validation)")
    return {"metric": recipe.loop.metric, "best": standing.best, "step": standing.best_step}


def lesson_of(
    recipe: Translation, model: nn.Module, codec: Codec, pairs: Sequence[Pair], validation: Sequence[Pair]
) -> Lesson:
    """What the training loop has to know of this task."""
    held = PairData.from_pairs(pairs, codec)
    batches = TokenBatches(held.lengths, recipe.batch_tokens, recipe.loop.seed)
    return Lesson(
        model=model,
        objective=recipe.objective,
        batches=partial(stream, held, batches, workers=recipe.loop.workers),
        validate=partial(validate, codec, PairData.from_pairs(validation, codec), validation, recipe),
    )


def validate(
    codec: Codec, held: PairData, pairs: Sequence[Pair], recipe: Translation, model: nn.Module
) -> dict[str, float]:
    """Loss per token, and BLEU, chrF and exact matches of greedy translations, every sentence counted once."""
    device = next(model.parameters()).device
    total, tokens = 0.0, 0
    for batch in TokenBatches(held.lengths, 4 * recipe.batch_tokens, noise=0).epoch(0):
        losses = recipe.objective(model, {k: v.to(device) for k, v in held.collate(batch).items()})
        total += float(losses["loss"].detach()) * int(losses["weight"])
        tokens += int(losses["weight"])
    translator = Translator(model, codec, Decoding(beam=1))
    answers = [a.text for a in translator.translate([p.source for p in pairs])]
    references = [p.target for p in pairs]
    exact = sum(a == r for a, r in zip(answers, references, strict=True)) / len(pairs)
    scores = {s.metric: s.value for s in score(answers, references, ("bleu", "bleu-lc", "chrf"))}
    return {"loss": total / max(tokens, 1), **scores, "exact": 100 * exact}


def read_pairs(what: ParallelText, data: Path, quarantine: Quarantine, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Training and validation pairs; of a single table, a share is held out by a draw that depends on the seed."""
    if data.is_file():
        pairs = _read_table(what, data, quarantine)
        quarantine.refuse_if_too_many(len(pairs) + len(quarantine), what.bad_share, "lines")
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
        count = min(2000, max(1, round(what.held_out * len(pairs))))
        if len(pairs) < 2:
            raise InputError(f"{data} has {len(pairs)} usable pair; training and validation need at least 2")
        return [pairs[i] for i in sorted(order[count:])], [pairs[i] for i in sorted(order[:count])]
    if not data.is_dir():
        raise InputError(f"no data at {data}; give a folder with {what.train}.{what.source}, or a table")
    splits = []
    for split in (what.train, what.validation):
        if Path(split).suffix:
            splits.append(_read_table(what, data / split, quarantine))
        else:
            languages = (what.source, what.target)
            splits.append(read_split(data, split, languages, quarantine, what.max_words))
    quarantine.refuse_if_too_many(sum(map(len, splits)) + len(quarantine), what.bad_share, "lines")
    return splits[0], splits[1]


def with_vocabulary(model: Model, codec: Codec) -> Model:
    """The spec with the codec's vocabulary sizes and padding."""
    sides: dict[str, Any] = {}
    for side, tokenizer in (("source", codec.source), ("target", codec.target)):
        words = getattr(model, side)
        sides[side] = words.replace(vocab=tokenizer.size, pad=tokenizer.pad)
    if getattr(model, "tie", None) == "all" and not codec.shared:
        raise InputError(
            "model.tie is 'all' but the codec has separate vocabularies; set model.tie=target or codec.shared=true"
        )
    return model.replace(**sides)


def _prepare(
    run: RunFolder,
    recipe: Translation,
    pairs: Sequence[Pair],
    quarantine: Quarantine,
    data: dict[str, str],
    resume: bool,
) -> Codec:
    """Writes what a run holds before its first step; on resume, checks that it is the same."""
    if resume:
        before = run.manifest.get("data", {})
        if before.get("sha256") != data["sha256"]:
            raise InputError(f"the pairs in {data['path']} are not those the run was begun with ({before.get('path')})")
        return Codec.load(run.path / "codec.json")
    codec = train_codec(recipe.codec, (p.source for p in pairs), (p.target for p in pairs))
    run.write("codec.json", codec.save)
    run.write_text("recipe.yaml", to_yaml(recipe.replace(model=with_vocabulary(recipe.model, codec))))
    run.write("quarantine.jsonl", quarantine.save)
    run.note(data=data)
    return codec


def _read_table(what: ParallelText, table: Path, quarantine: Quarantine) -> list[Pair]:
    columns = Columns(source=what.source, target=what.target, domain=what.domain)
    return read_parallel(table, columns=columns, quarantine=quarantine, max_words=what.max_words)


def _fingerprint(pairs: Sequence[Pair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(f"{pair.source}\0{pair.target}\n".encode())
    return digest.hexdigest()
