"""Caption preflight: each thing that can be wrong with captioned pictures is found, named and weighed."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import tiny_matching as tiny
from test_cli_matching import run

from tessella.data.caption_preflight import CaptionFindings, caption_preflight, has_captions
from tessella.data.captioned import read_captioned
from tessella.data.captions import CaptionColumns


def about(findings: CaptionFindings, words: str) -> tuple[str, list[str]]:
    """(severity, names) of the one problem that speaks of something."""
    (found,) = [problem for problem in findings.problems if words in problem.what]
    return found.severity, [name.replace(f"{findings.path}/", "") for name in found.names]


@pytest.fixture
def clean(tmp_path) -> Path:
    """Twelve scenes of their own in each split."""
    for name, first in (("train.jsonl", 0), ("val.jsonl", 100)):
        rows = []
        for number, scene in enumerate(tiny.SCENES[:24], first):
            tiny.picture(scene, number).save(tmp_path / f"{number}.png")
            rows.append({"image": f"{number}.png", "caption": [f"{text}, {number}" for text in tiny.captions(scene)]})
        tiny.lines(tmp_path / name, rows)
    return tmp_path


def changed(folder: Path, change, name: str = "train.jsonl") -> Path:
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    change(rows)
    tiny.lines(folder / name, rows)
    return folder


def test_clean_data(clean):
    findings = caption_preflight(clean)
    assert not findings.problems and len(findings.fine) == 3
    text = findings.render()
    assert "no problems" in text and "16x16 to 16x16" in text
    table = [line.split() for line in text.splitlines() if line.strip().startswith(("train", "validation"))]
    assert [row[:4] for row in table] == [["train", "24", "48", "2"], ["validation", "24", "48", "2"]]


def test_captions_that_cannot_be_used_or_read_to_their_end(clean):
    def change(rows):
        rows[0]["caption"] = ["", "a picture"]
        rows[1]["caption"] = []
        rows[2]["caption"] = "word " * 10_000
        rows[3]["caption"] = [*rows[3]["caption"], rows[4]["caption"][0]]

    findings = caption_preflight(changed(clean, change))
    assert about(findings, "caption: empty: 1") == ("serious", ["train.jsonl row 1"])
    assert about(findings, "no caption: 1") == ("serious", ["train.jsonl row 2"])
    severity, (name,) = about(findings, "captions of over 25 words: 1 (2.2%)")
    assert severity == "note" and name.startswith("2.png: 10,000 words: word word") and len(name) < 120
    severity, (name,) = about(findings, "captions of more than one picture: 1")
    assert severity == "note" and name.startswith("2 pictures: a ")
    assert not findings.fatal and "10,000" in findings.render()
    assert "captions of over 5 words" in caption_preflight(clean, words=5).render()


def test_pictures_that_cannot_be_used(clean):
    (clean / "0.png").write_bytes((clean / "0.png").read_bytes()[:-40])
    (clean / "1.png").write_bytes(b"")
    (clean / "2.png").unlink()
    (clean / "4.png").write_bytes((clean / "3.png").read_bytes())
    (clean / "105.png").write_bytes((clean / "5.png").read_bytes())
    findings = caption_preflight(clean)
    for reason, name in (("truncated image", "0.png"), ("empty file", "1.png"), ("no such file", "2.png")):
        severity, names = about(findings, f"{reason}: 1")
        assert severity == "serious" and len(names) == 1
        assert names[0] in (name, f"train.jsonl row {int(name[0]) + 1}")
    assert about(findings, "more than once in a split, and count as one") == ("note", ["3.png = 4.png"])
    assert about(findings, "scores would flatter") == ("serious", ["5.png = 105.png"])
    assert not findings.fatal
    for number in range(6, 12):
        (clean / f"{number}.png").write_bytes(b"no picture")
    text = caption_preflight(clean).render()
    assert "train and validation: 9 of 48 cannot be used, more than 10%" in text and "not usable as it is" in text
    assert "smaller than 20x20 pixels: 24" in caption_preflight(clean, minimum=(20, 20)).render()


def test_it_agrees_with_what_is_read(clean):
    findings = caption_preflight(clean)
    for part, split in zip(findings.parts, ("train", "val"), strict=True):
        found = read_captioned(clean, split)
        assert part.pictures.names == found.pictures.names and part.captions == found.captions


def test_tar_shards(tmp_path):
    with tarfile.open(tmp_path / "train-000000.tar", "w") as tar:
        for number, scene in enumerate(tiny.SCENES[:5]):
            file = io.BytesIO()
            tiny.picture(scene, number).save(file, "PNG")
            text = "" if number == 3 else "\n".join(tiny.captions(scene))
            for name, content in ((f"{number}.png", file.getvalue()), (f"{number}.txt", text.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    findings = caption_preflight(tmp_path)
    assert len(findings.parts[0].pictures) == 4
    assert about(findings, "caption: empty: 1") == ("serious", ["train-000000.tar/3.txt"])
    assert has_captions(tmp_path, CaptionColumns(), "label")


def test_what_training_would_refuse(tmp_path, clean):
    (tmp_path / "empty").mkdir()
    assert "is no table or tar" in caption_preflight(tmp_path / "empty").render()
    findings = caption_preflight(clean, CaptionColumns(caption="titel"))
    assert findings.fatal and about(findings, "train.jsonl has no column 'titel'")[0] == "fatal"
    for number in range(24):
        (clean / f"{number}.png").unlink()
    assert about(caption_preflight(clean), "train: no usable picture")[0] == "fatal"


def test_the_verb_knows_captions_from_classes(clean, tmp_path):
    code, out, _ = run("check", clean)
    assert code == 0 and "captioned pictures" in out and "no problems" in out
    code, out, _ = run("check", clean, "--json", "--words", 3)
    told = json.loads(out)
    assert code == 0 and told["splits"]["train"] == {"captions": 48, "pictures": 24, "set aside": 0}
    assert [problem["severity"] for problem in told["problems"]] == ["note", "note"]
    changed(clean, lambda rows: [row.update(label=str(n % 2)) for n, row in enumerate(rows)])
    assert "2 classes" in run("check", clean / "train.jsonl")[1]
    assert "captioned pictures" in run("check", clean / "train.jsonl", "--caption", "caption")[1]
    assert run("check", clean, "--caption", "titel")[0] == 1
    assert "4 classes" in run("check", tiny.album(tmp_path / "album"))[1]


def test_flickr8k(shared_data):
    if not (shared_data / "flickr8k").is_dir():
        pytest.skip("no flickr8k among the data sets")
    assert has_captions(shared_data / "flickr8k", CaptionColumns(), "label")
