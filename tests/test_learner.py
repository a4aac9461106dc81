"""The training loop: what it computes, keeps, logs and refuses."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import learner_toy as toy
import pytest
import torch
from rich.console import Console
from torch import nn

from tessella.averages import Candidates, Ema, mean, swapped
from tessella.checkpoints import Checkpoints
from tessella.errors import InputError
from tessella.lesson import Lesson, Stream
from tessella.loop import LoopSpec
from tessella.optimizers import Adam, AdamW
from tessella.precision import choose
from tessella.processes import launch, seed_all
from tessella.progress import ProgressBar
from tessella.runs import RunFolder
from tessella.spec import from_dict, override, to_dict
from tessella.stepper import Stepper


def records(folder: Path, key: str) -> list[dict]:
    return [r for r in RunFolder(folder).metrics() if key in r]


def test_it_learns_logs_and_saves_the_best(tmp_path):
    model, standing = toy.train(tmp_path / "run", {"steps": 60})
    validations = records(tmp_path / "run", "validation")
    best = min(r["validation"]["mse"] for r in validations)
    assert best < validations[0]["validation"]["mse"] / 3
    assert standing.best == best and not model.training
    saved = toy.Toy().eval()
    saved.load_state_dict(RunFolder.open(tmp_path / "run").weights())
    assert toy.validate(saved)["mse"] == toy.validate(model)["mse"] == best
    assert [r["step"] for r in validations] == [9, 18, 27, 36, 45, 54, 60]
    losses = records(tmp_path / "run", "loss")
    assert [r["step"] for r in losses] == list(range(4, 61, 4))
    assert all(r.keys() == {"step", "epoch", "loss", "off", "lr", "items_per_second", "wall"} for r in losses)
    assert losses[0]["lr"] == pytest.approx(0.02 * 4 / 8)


def test_one_step_is_the_gradient_of_the_plain_loss():
    """Bit for bit: no rescaling hides in the simple case."""
    loop = LoopSpec(steps=1, precision="32", device="cpu", clip=None)
    seed_all(1)
    mine, plain = toy.Toy(), toy.Toy()
    plain.load_state_dict(mine.state_dict())
    batch = toy.Sums()[1]
    stepper = Stepper(launch(loop), Lesson(mine, toy.objective, toy.Source()), loop, Adam())
    stepper.take(1, [batch], 0.01, False)
    seed_all(loop.seed, 1)
    toy.objective(plain, batch)["loss"].backward()  # type: ignore[union-attr]
    for a, b in zip(mine.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]


def test_accumulation_is_one_big_batch():
    """Batches of 4, 5 and 6 items, one after the other, have the gradient of their concatenation."""
    loop = LoopSpec(steps=1, precision="32", device="cpu", accumulate=3)
    weights, grads, rows = [], [], []
    parts = [toy.Sums()[n] for n in range(3)]
    whole = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    for batches in (parts, [whole]):
        seed_all(1)
        model = toy.Toy()
        model.dropout.p = 0.0
        stepper = Stepper(launch(loop), Lesson(model, toy.objective, toy.Source()), loop, Adam(eps=1e-3))
        rows.append(stepper.take(1, batches, 0.01, False))
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(*rows) and rows[0][0] == 15
    assert torch.allclose(*grads, atol=1e-7) and torch.allclose(*weights, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    class Poisoned(toy.Source):
        def __call__(self, place):
            for after, batch in super().__call__(place):
                poison = math.nan if after.batch == 7 else 1.0
                yield after, {**batch, "y": batch["y"] * poison}

    with pytest.raises(InputError, match=r"not finite at step 7 \(learning rate 0.0175\).*since step 5"):
        toy.train(tmp_path / "run", {"checkpoint_every": 5}, Poisoned())
    assert RunFolder(tmp_path / "run").checkpoints.steps() == [5]


class Explosion(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * math.inf


@pytest.mark.parametrize("clip", [1.0, None])
def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, clip):
    """The loss is finite, the next one would not be: nothing of such a step is saved."""
    real, calls = toy.objective, []

    def objective(model, batch):
        calls.append(batch)
        out = real(model, batch)
        return {**out, "loss": Explosion.apply(out["loss"]) if len(calls) == 7 else out["loss"]}

    monkeypatch.setattr(toy, "objective", objective)
    with pytest.raises(InputError, match="gradient is not finite at step 7"):
        toy.train(tmp_path / "run", {"checkpoint_every": 1, "clip": clip})
    assert RunFolder(tmp_path / "run").checkpoints.steps() == [5, 6]


def test_a_step_without_items_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "objective", lambda m, b: {"loss": m(b["x"]).sum() * 0, "weight": 0})
    with pytest.raises(InputError, match="nothing to learn from at step 1 "):
        toy.train(tmp_path / "run", {})


def test_an_old_checkpoint_is_renewed(tmp_path):
    source = toy.Source()
    toy.train(tmp_path / "a", {"steps": 6, "checkpoint_minutes": 1e-9, "average": 3}, source)
    assert RunFolder(tmp_path / "a").checkpoints.steps() == [5, 6]
    assert not records(tmp_path / "a", "averaged")


def test_patience_and_epochs_end_a_run(tmp_path):
    _, standing = toy.train(tmp_path / "a", {"steps": None, "epochs": 3})
    assert standing.step == 3 * toy.BATCHES
    flat = {"steps": 1000, "validate_every": 2, "patience": 3, "mode": "max"}  # the error falls: never better
    _, standing = toy.train(tmp_path / "b", flat)
    assert standing.stale == 3 and standing.step == standing.best_step + 6


def test_every_epoch_sees_every_batch_once():
    source = toy.Source()
    stream = Stream(Lesson(nn.Identity(), toy.objective, source), toy.Position(0, 4))
    for _ in range(7):
        stream.take(2)
    assert source.seen[:14] == [(0, n) for n in range(4, 9)] + [(1, n) for n in range(9)]
    assert stream.place == toy.Position(2, 0)


def test_two_processes_share_the_batches():
    streams = [Stream(Lesson(nn.Identity(), toy.objective, toy.Source()), toy.Position(), r, 2) for r in range(2)]
    alone = Stream(Lesson(nn.Identity(), toy.objective, toy.Source()), toy.Position())
    for _ in range(5):
        dealt = [stream.take(2) for stream in streams]
        whole = alone.take(4)
        for a, b in zip([dealt[0][0], dealt[1][0], dealt[0][1], dealt[1][1]], whole, strict=True):
            assert torch.equal(a["x"], b["x"])
        assert streams[0].place == streams[1].place == alone.place


def test_a_broken_loader_leaves_the_place():
    class Broken(toy.Source):
        def __call__(self, place):
            yield next(iter(super().__call__(place)))
            raise OSError("gone")

    stream = Stream(Lesson(nn.Identity(), toy.objective, Broken()), toy.Position(1, 2))
    with pytest.raises(OSError, match="gone"):
        stream.take(2)
    assert stream.place == toy.Position(1, 2)


def test_no_data_is_an_input_error():
    with pytest.raises(InputError, match="gives no batch"):
        Stream(Lesson(nn.Identity(), toy.objective, lambda place: iter(())), toy.Position()).take(1)


def test_without_validation_the_last_weights_are_saved(tmp_path):
    _, standing = toy.train(tmp_path / "run", {"steps": 10, "average": 2, "checkpoint_every": 5}, judged=False)
    run = RunFolder.open(tmp_path / "run")
    assert standing.best is None
    rows = Checkpoints(tmp_path / "run" / "checkpoints").load(pytest.fail).state["candidates"]  # type: ignore[union-attr]
    assert [row[0] for row in rows] == [5, 10]
    wanted = mean(run.checkpoints.read_weights(row[0], row[2]) for row in rows)
    assert all(torch.equal(run.weights()[name], value) for name, value in wanted.items())


def test_averaging_is_kept_only_if_it_is_better(tmp_path):
    for of in ("last", "best"):
        folder = tmp_path / of
        _, standing = toy.train(folder, {"average": 3, "average_of": of, "validate_every": 4, "checkpoint_every": 4})
        (averaged,) = records(folder, "averaged")
        single = min(r["validation"]["mse"] for r in records(folder, "validation") if "averaged" not in r)
        value = averaged["validation"]["mse"]
        assert averaged["best"] == (value < single) and standing.best == min(value, single)
        saved = toy.Toy().eval()
        saved.load_state_dict(RunFolder.open(folder).weights())
        assert toy.validate(saved)["mse"] == standing.best
        steps = averaged["averaged"]
        if of == "last":
            assert steps == [32, 36, 40]
        else:
            ranked = sorted((r["validation"]["mse"], r["step"]) for r in records(folder, "best") if r not in [averaged])
            assert steps == sorted(step for _, step in ranked[:3])


def test_training_on_after_averaging_starts_from_the_best_single_weights(tmp_path):
    every = {"average": 3, "validate_every": 4, "checkpoint_every": 4}
    toy.train(tmp_path / "a", {**every, "steps": 20, "ema": 0.5})
    toy.train(tmp_path / "a", {**every, "steps": 40, "ema": 0.5})
    toy.train(tmp_path / "b", {**every, "steps": 40, "ema": 0.5})
    a, b = (RunFolder.open(tmp_path / name).weights() for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_a_damaged_candidate_is_left_out_aloud(tmp_path):
    kept = Candidates(Checkpoints(tmp_path), 2)
    for step in (1, 2, 3):
        kept.add(step, None, {"w": torch.full((2,), float(step))}, True)
    (tmp_path / "weights-00000002.safetensors").write_bytes(b"x" * 100)
    said: list[str] = []
    steps, weights = kept.mean(said.append)
    assert steps == [3] and weights["w"].tolist() == [3, 3] and "without step 2" in said[0]


def test_ema_is_what_is_judged(tmp_path):
    toy.train(tmp_path / "run", {"ema": 0.9, "steps": 20, "validate_every": 20})
    run = RunFolder.open(tmp_path / "run")
    found = run.checkpoints.load(pytest.fail)
    assert found
    averages = {n.removeprefix("ema/"): t for n, t in found.optimizer.items() if n.startswith("ema/")}
    assert all(torch.equal(run.weights()[name], value) for name, value in averages.items())
    assert any(not torch.equal(found.model[name], value) for name, value in averages.items())


def test_ema_formula():
    weights = {"w": torch.tensor([1.0])}
    ema = Ema(weights, 0.99)
    weights["w"] = torch.tensor([3.0])
    ema.update(weights, 1)
    assert ema.average["w"].item() == pytest.approx(2 / 11 * 1 + 9 / 11 * 3)
    ema.update(weights, 10**6)
    assert ema.average["w"].item() == pytest.approx(0.99 * (2 / 11 + 27 / 11) + 0.03)


def test_swapped_gives_back_the_same_bits():
    model = toy.Toy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KeyError), swapped(model, {"into.bias": torch.zeros(16), "out.bias": torch.zeros(1)}):
        assert not model.into.bias.any() and model.alias.bias is model.out.bias
        raise KeyError
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_adamw_spares_one_dimensional_weights():
    optimizer = AdamW(decay=0.1).build(dict(toy.Toy().named_parameters()))
    assert [(g["weight_decay"], {p.ndim for p in g["params"]}) for g in optimizer.param_groups] == [
        (0.1, {2}),
        (0.0, {1}),
    ]


def test_precision(monkeypatch):
    assert choose("32", "cpu") == "32" and choose("bf16", "cpu") == "bf16"
    for flags, wanted in ((set(), "32"), ({"avx512_bf16"}, "bf16"), ({"amx_bf16", "fpu"}, "bf16")):
        monkeypatch.setattr("tessella.precision._cpu_flags", lambda flags=flags: flags)
        assert choose("auto", "cpu") == wanted


def test_bf16_keeps_fp32_weights(tmp_path):
    toy.train(tmp_path / "run", {"precision": "bf16", "steps": 60})
    weights = RunFolder.open(tmp_path / "run").weights()
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert records(tmp_path / "run", "validation")[-1]["validation"]["mse"] < 2


def test_loop_settings():
    loop = LoopSpec(steps=10)
    assert from_dict(to_dict(loop)) == loop
    assert override(loop, "precision", "32").precision == "32"
    assert override(loop, "checkpoint_every", "7").checkpoint_every == 7
    assert not loop.better(math.nan, None) and loop.better(1.0, None) and loop.better(2.0, 1.0)
    assert loop.replace(mode="min").better(1.0, 2.0)
    with pytest.raises(InputError, match="no end"):
        from_dict({"kind": "loop"}, LoopSpec)
    assert LoopSpec(epochs=4).length(10, 2) == 20 and LoopSpec(epochs=4, steps=15).length(10, 2) == 15
    assert LoopSpec(epochs=4).length(5, 0) is None


def test_settings_that_cannot_work(tmp_path):
    with pytest.raises(InputError, match=r"gives no 'bleu'.*known: mse"):
        toy.train(tmp_path / "a", {"metric": "bleu"})
    with pytest.raises(InputError, match="needs validation data"):
        toy.train(tmp_path / "b", {"average": 2, "average_of": "best"}, judged=False)


def test_another_model_is_refused(tmp_path, monkeypatch):
    toy.train(tmp_path / "run", {"steps": 3})
    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"'into\.\w+' is"):
        patch.setattr(toy.Toy, "__init__", _wider)
        toy.train(tmp_path / "run", {"steps": 5})
    with pytest.raises(InputError, match="moving average"):
        toy.train(tmp_path / "run", {"steps": 5, "ema": 0.9})


def _wider(self) -> None:
    nn.Module.__init__(self)
    self.into, self.dropout, self.out = nn.Linear(5, 17), nn.Dropout(0.2), nn.Linear(17, 1)
    self.alias = self.out


def test_progress_without_a_terminal_is_rare_and_plain(monkeypatch):
    text = io.StringIO()
    now = [0.0]
    monkeypatch.setattr("tessella.progress.time.monotonic", lambda: now[0])
    with ProgressBar(100, console=Console(file=text)) as bar:
        bar.score("bleu", 31.5)
        for step in range(1, 101):
            now[0] += 1
            bar.update(step, 2.0, 1e-3, 1000)
    lines = text.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[4] == "step 50/100  loss 2.0000  lr 1.00e-03  1,000 items/s  bleu 31.5  0:00:50 left"


def test_progress_on_a_terminal_vanishes():
    text = io.StringIO()
    with ProgressBar(10, console=Console(file=text, force_terminal=True, width=100)) as bar:
        bar.update(5, 2.0, 1e-3, 1000)
        bar.say("kept [line]")
    assert "kept [line]" in text.getvalue() and "loss 2.0000" in text.getvalue()


def test_metrics_lines_are_json(tmp_path):
    toy.train(tmp_path / "run", {"steps": 8})
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
