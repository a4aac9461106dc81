import importlib
import json
import re
from pathlib import Path

import pytest

from tessella.errors import InputError
from tessella.results import Record, main, read_records, render, write_page

FOLDER = Path(__file__).parents[1] / "docs" / "results"
RECORD = {
    "topic": "translation",
    "name": "de-en | small",
    "value": 38.123456,
    "unit": "BLEU",
    "target": ">= 38",
    "met": True,
    "command": "tessella train de-en",
    "data": "multi30k",
    "split": "test_2016_flickr",
    "signature": "nrefs:1|case:mixed",
    "seeds": [1, 2],
    "hardware": "2 CPU cores",
    "date": "2026-11-23",
}


def test_the_committed_page_is_what_the_records_say():
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == render(read_records(FOLDER)), "run `make results`"


def test_a_record_becomes_a_row_and_a_command(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([RECORD, {**RECORD, "topic": "speed", "met": False}]))
    page = write_page(tmp_path).read_text()
    assert page.index("## speed") < page.index("## translation")
    assert "| de-en \\| small | 38.12 BLEU | >= 38 | yes | multi30k |" in page
    assert "| **no** |" in page
    assert "`tessella train de-en` (nrefs:1|case:mixed)" in page


@pytest.mark.parametrize(
    "change", [{"value": None}, {"date": "yesterday"}, {"seeds": "one"}, {"metre": 1}, {"command": ""}]
)
def test_a_wrong_record_is_named(tmp_path, change, capsys):
    (tmp_path / "bad.json").write_text(json.dumps({**RECORD, **change}))
    with pytest.raises(InputError, match=rf"bad\.json: {next(iter(change))}"):
        read_records(tmp_path)
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_broken_json_and_a_missing_folder(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        read_records(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        read_records(tmp_path / "nowhere")


def test_scores_of_runs_that_are_gone_are_kept(monkeypatch):
    """Of benchmarks/classification.py: new records take the places of the old ones, the others stay as they were."""
    monkeypatch.syspath_prepend(str(FOLDER.parents[1] / "benchmarks"))
    benchmark = importlib.import_module("classification")
    earlier = benchmark.Book("a machine", [], [])
    for name, value in (("ResNet: accuracy", 86.0), ("ViT: accuracy", 60.0), (benchmark.BEST_OF, 86.0)):
        earlier.add(name, value, "%", "cifar10", "test")
    book = benchmark.Book("another machine", earlier.rows, [])
    book.add("ViT: accuracy", 70.0, "%", "cifar10", "test")
    benchmark.best(book)
    benchmark.on_a_gpu(book)
    rows = {row["name"]: row for row in book.whole()}
    assert list(rows)[:3] == ["ResNet: accuracy", "ViT: accuracy", benchmark.BEST_OF]
    assert rows["ResNet: accuracy"] == earlier.rows[0]
    assert (rows["ViT: accuracy"]["value"], rows["ViT: accuracy"]["hardware"]) == (70.0, "another machine")
    assert (rows[benchmark.BEST_OF]["value"], rows[benchmark.BEST_OF]["met"]) == (86.0, True)
    untold = rows["CvT, 30 minutes on a GPU: accuracy"]
    assert (untold["value"], untold["target"], untold["met"]) == ("not measured: no GPU", 94.0, None)
    assert "not measured: no GPU" in render([Record.model_validate(row) for row in rows.values()])


def test_scores_of_vision_in_the_readme_are_records():
    """Whoever measures again changes both."""
    values = {record.name: record.value for record in read_records(FOLDER)}
    readme = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    columns = ("accuracy", "parameters", "multiply-adds an image", "training, one thread, quiet", "compute on one core")
    families = re.findall(r"^\| (.+?) \(`cifar10_\w+`\) \| (.+) \|$", readme, flags=re.MULTILINE)
    assert len(families) == 7
    for label, cells in families:
        assert [float(cell) for cell in cells.split(" | ")] == [values[f"{label}: {name}"] for name in columns]
    peers = ("transformers bfloat16", "transformers bfloat16, compiled and frozen", "OpenVINO bfloat16")
    speeds = re.findall(r"^\| (ViT-B/16|DeiT-S|Swin-T|CvT-13) \| (.+) \|$", readme, flags=re.MULTILINE)
    assert len(speeds) == 4
    for model, cells in speeds:
        told = [values[f"{model}, batch 8: tessella bfloat16 over {peer}"] for peer in peers]
        assert [float(cell) for cell in cells.split(" | ")] == told
    training = [values[f"{model}, training, batch 8: tessella over transformers"] for model in ("ViT-S/16", "CvT-13")]
    assert f"ViT-S/16 {training[0]}, CvT-13 {training[1]}." in readme
