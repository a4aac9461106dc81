"""Decode: words a second of a base Transformer on a processor, beside transformers and CTranslate2.

    python benchmarks/decode.py [--threads 2] [--rounds 5] [--record "2 cores AMD EPYC (Zen 4), torch 2.13 CPU"]

Random weights (the same everywhere), 32 sentences of 24 tokens, exactly 24 tokens written each, the end forbidden. The
systems take turns, so that a busy machine is busy for all; the table has the medians. Memory is the peak of a process
of its own that loads one system and translates once with beam 5.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tessella.decode import Decoding, search
from tessella.exporting.ct2 import ct2_spec
from tessella.files import save_tensors, write_json
from tessella.inference.prepare import prepare
from tessella.positions import Sinusoidal
from tessella.predict import filled
from tessella.runs import RunFolder
from tessella.weights import untranslate
from tessella.zoo.marian import RULES, marian_config
from tessella.zoo.transformer import transformer

ROWS, LENGTH, VOCAB = 32, 24, 33_000
PAD, BOS, EOS, UNK = range(4)
SPEC = transformer("base", vocab=VOCAB, positions=Sinusoidal(layout="halves"))
BEAMS = (1, 5)
RECORDS = Path(__file__).parents[1] / "docs" / "results" / "translation-decoding.json"

Translate = Callable[[int], list[list[int]]]
"""Beam -> the ids written for each sentence."""


def write(folder: Path) -> None:
    """The same random weights in three layouts."""
    torch.manual_seed(0)
    model = SPEC.build().eval()
    run = RunFolder.create(folder / "run")
    run.save_weights(model.state_dict())
    (folder / "hf").mkdir()
    state = untranslate(model.state_dict(), RULES[SPEC.tie])
    save_tensors(folder / "hf" / "model.safetensors", {**state, "final_logits_bias": torch.zeros(1, VOCAB)})
    ids = {"pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": BOS, "forced_eos_token_id": None}
    write_json(folder / "hf" / "config.json", {**marian_config(SPEC), **ids, "bos_token_id": None})
    words = SimpleNamespace(pad=PAD, bos=BOS, eos=EOS, unk=UNK, vocabulary=[f"w{i}" for i in range(VOCAB)])
    codec: Any = SimpleNamespace(source=words, target=words)
    (folder / "ct2").mkdir()
    ct2_spec(SPEC, model, codec).save(str(folder / "ct2"))


def sentences() -> torch.Tensor:
    """long 32 24, each row ending as sentences do."""
    rows = torch.randint(4, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    rows[:, -1] = EOS
    return rows


def tessella(folder: Path, dtype: str) -> Translate:
    """Ours, loaded as `tessella.load` does."""
    model: Any = prepare(filled(SPEC, RunFolder.open(folder / "run")), dtype)
    limits = torch.full((ROWS,), LENGTH)

    def translate(beam: int) -> list[list[int]]:
        with torch.inference_mode():
            state = model.begin(model.encode(sentences()))
            how = Decoding(beam=beam, alpha=1.0, penalty="power")
            forbid = (PAD, BOS, EOS, UNK)
            found = search(model.step, state, how, start=BOS, end=EOS, limits=limits, forbid=forbid)
        return [one[0].ids for one in found]

    return translate


def transformers(folder: Path, dtype: str) -> Translate:
    """MarianMTModel.generate."""
    from transformers import MarianMTModel

    model: Any = MarianMTModel.from_pretrained(folder / "hf", dtype=getattr(torch, dtype)).eval()
    exact = {"min_new_tokens": LENGTH, "max_new_tokens": LENGTH}

    def translate(beam: int) -> list[list[int]]:
        source = sentences()
        mask = torch.ones_like(source)
        with torch.inference_mode():
            return model.generate(input_ids=source, attention_mask=mask, num_beams=beam, **exact)[:, 1:].tolist()

    return translate


def ctranslate2(folder: Path, dtype: str) -> Translate:
    """CTranslate2's Translator."""
    import ctranslate2

    model = ctranslate2.Translator(
        str(folder / "ct2"), compute_type=dtype, inter_threads=1, intra_threads=torch.get_num_threads()
    )
    words = [[f"w{i}" for i in row] for row in sentences().tolist()]

    def translate(beam: int) -> list[list[int]]:
        found = model.translate_batch(
            words, beam_size=beam, min_decoding_length=LENGTH, max_decoding_length=LENGTH, max_batch_size=0
        )
        return [[int(piece[1:]) for piece in one.hypotheses[0]] for one in found]

    return translate


SYSTEMS: dict[str, tuple[Callable[[Path, str], Translate], str]] = {
    "tessella float32": (tessella, "float32"),
    "tessella bfloat16": (tessella, "bfloat16"),
    "tessella int8": (tessella, "int8"),
    "transformers float32": (transformers, "float32"),
    "transformers bfloat16": (transformers, "bfloat16"),
    "CTranslate2 float32": (ctranslate2, "float32"),
    "CTranslate2 int8": (ctranslate2, "int8"),
}
TARGETS = {
    1: {"transformers bfloat16": 1.2, "CTranslate2 float32": 1.0},
    5: {"transformers bfloat16": 1.5, "CTranslate2 float32": 1.0},
}
"""Beam -> other system -> how many times its speed ours shall have."""
OURS = "tessella bfloat16"
PAIRED = ("tessella float32", "tessella bfloat16")
"""Ours whose memory is compared with that of transformers in the same type."""


def speeds(folder: Path, names: list[str], rounds: int) -> tuple[dict[tuple[str, int], float], float]:
    """Median words a second by system and beam, and the best rate of a large bf16 product (multiply-adds a second)."""
    systems = {name: SYSTEMS[name][0](folder, SYSTEMS[name][1]) for name in names}
    answers = {(name, beam): systems[name](beam) for name in names for beam in BEAMS}
    assert all(len(ids) == LENGTH for found in answers.values() for ids in found)
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in answers}
    a, b = (torch.randn(2048, 2048).to(torch.bfloat16) for _ in range(2))
    rate = 0.0
    for _ in range(rounds):
        for name, beam in answers:
            began = time.perf_counter()
            systems[name](beam)
            seconds[name, beam].append(time.perf_counter() - began)
        for _ in range(3):
            began = time.perf_counter()
            a @ b
            rate = max(rate, 2048**3 / (time.perf_counter() - began))
    return {key: ROWS * LENGTH / statistics.median(times) for key, times in seconds.items()}, rate


def multiply_adds(beam: int) -> int:
    """Of the products with weights, a word written: the encoder once, the decoder for every hypothesis.

    The first step reads one hypothesis a sentence; source and target are equally long.
    """
    d, hidden = SPEC.encoder.dim, SPEC.encoder.hidden  # type: ignore[attr-defined]
    layer = 4 * d * d + 2 * d * hidden
    encoder = SPEC.encoder.depth * layer + SPEC.decoder.depth * 2 * d * d  # type: ignore[attr-defined]
    decoder = SPEC.decoder.depth * (layer + 2 * d * d) + VOCAB * d  # type: ignore[attr-defined]
    return encoder + decoder * (1 + beam * (LENGTH - 1)) // LENGTH


def peak(folder: Path, name: str, threads: int) -> float:
    """Megabytes of memory that a process needs which loads this system and translates with beam 5."""
    command = [sys.executable, __file__, "--threads", str(threads), "--alone", name, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def record(speed: dict[tuple[str, int], float], memory: dict[str, float], rate: float, hardware: str, rounds: int):
    """Writes docs/results/translation-decoding.json."""
    same = {
        "topic": "translation",
        "command": "python benchmarks/decode.py",
        "data": f"{ROWS} random sentences of {LENGTH} tokens, {LENGTH} written each",
        "split": "none",
        "signature": f"transformer base, {VOCAB} words, random weights; medians of {rounds} interleaved rounds",
        "seeds": [0],
        "hardware": hardware,
        "date": dt.date.today().isoformat(),
    }
    rows: list[tuple[str, float, str, str | None, bool | None]] = []
    for (name, beam), value in speed.items():
        rows.append((f"decoding, {name}, beam {beam}", round(value), "words/s", None, None))
    for beam, targets in TARGETS.items():
        for other, least in targets.items():
            ratio = speed[OURS, beam] / speed[other, beam]
            title = f"decoding, {OURS} over {other}, beam {beam}"
            rows.append((title, round(ratio, 2), "x", f">= {least}", ratio >= least))
        share = speed[OURS, beam] * multiply_adds(beam) / rate
        rows.append((f"decoding, {OURS}, share of the product rate, beam {beam}", round(share, 2), "", None, None))
    for name, value in memory.items():
        most = memory["transformers " + name.split()[1]] if name in PAIRED else None
        goal = (None, None) if most is None else (f"<= {most:.0f}", value <= most)
        rows.append((f"decoding, peak memory, {name}", round(value), "MB", *goal))
    fields = ("name", "value", "unit", "target", "met")
    made = [{**same, **dict(zip(fields, row, strict=True))} for row in rows]
    RECORDS.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def show(names: list[str], speed: dict[tuple[str, int], float], memory: dict[str, float], rate: float) -> None:
    """Prints the table and what became of the targets."""
    print(f"{'words/s':24}" + "".join(f"{f'beam {beam}':>10}" for beam in BEAMS) + f"{'peak MB':>10}")
    for name in names:
        cells = "".join(f"{speed[name, beam]:10.0f}" for beam in BEAMS)
        print(f"{name:24}{cells}" + (f"{memory[name]:10.0f}" if name in memory else ""))
    if OURS in names:
        for beam in BEAMS:
            share = speed[OURS, beam] * multiply_adds(beam) / rate
            print(f"beam {beam}: {share:.0%} of this machine's bf16 product rate ({rate / 1e9:.0f} G multiply-adds/s)")
            for other, least in TARGETS[beam].items():
                if other in names:
                    print(f"    {speed[OURS, beam] / speed[other, beam]:.2f} x {other} (target {least})")


def main() -> None:
    """Measures, prints and, if asked, writes down."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--systems", default=".", help="only those whose name this expression finds")
    options.add_argument("--no-memory", action="store_true")
    options.add_argument("--record", metavar="HARDWARE", help="write the results down, with what they were measured on")
    options.add_argument("--alone", help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(chosen.threads)
    if chosen.alone:
        load, dtype = SYSTEMS[chosen.alone]
        load(chosen.folder, dtype)(5)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    names = [name for name in SYSTEMS if re.search(chosen.systems, name)]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        memory = {} if chosen.no_memory else {name: peak(Path(folder), name, chosen.threads) for name in names}
        speed, rate = speeds(Path(folder), names, chosen.rounds)
    show(names, speed, memory, rate)
    if chosen.record:
        record(speed, memory, rate, chosen.record, chosen.rounds)


if __name__ == "__main__":
    main()
