"""Clips: whatever a video holds, watching gives a few upright pictures or one plain reason, and a stem reads them."""

from __future__ import annotations

import builtins
import io
import struct
import time

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessella.data import clips as module
from tessella.data.clips import Watching, spread, stacked, watched
from tessella.data.pixels import Unreadable
from tessella.errors import InputError
from tessella.heads import Classes
from tessella.models import Encoder
from tessella.spec import from_dict, to_dict
from tessella.stems.clips import Clips
from tessella.trunks.plain import Plain

av = pytest.importorskip("av", reason='videos need PyAV: pip install "tessella[video]"')
HOW = Watching(frames=4, size=16)


def grey(number: int, count: int) -> int:
    """How bright frame `number` of `count` is."""
    return 20 + 200 * number // max(count - 1, 1)


def video(count: int, format: str = "mp4", codec: str = "mpeg4", side: int = 32, start: int = 12) -> bytes:
    """Frames ever brighter, a whole picture every `start`."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = side
        stream.pix_fmt, stream.gop_size = "yuv420p", start
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((side, side, 3), grey(number, count), np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def animation(count: int, format: str, side: int = 32) -> bytes:
    frames = [Image.new("RGB", (side, side), (grey(i, count),) * 3) for i in range(count)]
    file = io.BytesIO()
    frames[0].save(
        file, format, save_all=True, append_images=frames[1:], **({"lossless": True} if format == "WEBP" else {})
    )
    return file.getvalue()


def brightness(clip: np.ndarray) -> list[float]:
    return clip.mean(axis=(1, 2, 3)).tolist()


def wanted(count: int, frames: int = HOW.frames) -> list[int]:
    return [grey(i, count) for i in spread(count, frames)]


CONTAINERS = [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mpeg4"), ("mpegts", "mpeg2video"), ("webm", "libvpx")]


# which frames


@pytest.mark.parametrize("count, frames, chosen", [(4, 4, [0, 1, 2, 3]), (2, 4, [0, 1]), (0, 4, []), (100, 1, [50])])
def test_places_are_the_middles_of_equal_parts(count, frames, chosen):
    assert spread(count, frames) == chosen


@given(st.integers(1, 500), st.integers(1, 64))
def test_places_are_even_and_each_is_taken_once(count, frames):
    places = spread(count, frames)
    assert len(set(places)) == len(places) == min(count, frames)
    if count > frames:
        middles = (np.arange(frames) + 0.5) * count / frames
        assert (np.abs(places + np.float64(0.5) - middles) <= 0.5).all()


@pytest.mark.parametrize("format, codec", CONTAINERS)
@pytest.mark.parametrize("count", [1, 3, 8, 50, 200])
def test_frames_of_a_video_are_spread_evenly(format, codec, count):
    if (format, count) == ("mpegts", 3):
        pytest.skip("too few bytes for its packets to be recognised")
    clip = watched(video(count, format, codec), HOW)
    assert clip.dtype == np.uint8 and clip.shape == (min(count, 4), 3, 16, 16)
    np.testing.assert_allclose(brightness(clip), wanted(count), atol=9)


@pytest.mark.parametrize("format, codec", CONTAINERS[:4])
def test_a_long_video_is_sought_through(format, codec, monkeypatch):
    made = video(1500, format, codec, side=16)
    monkeypatch.setattr(module, "_in_order", lambda *rest: pytest.fail("all of it was decoded"))
    np.testing.assert_allclose(brightness(watched(made, HOW)), wanted(1500), atol=4)


def test_a_long_video_that_starts_once_costs_a_bounded_search(monkeypatch):
    made = video(900, start=10_000, side=16)
    monkeypatch.setattr(module, "SOUGHT", 50)
    clip = watched(made, HOW)
    assert 1 <= len(clip) <= 4


def test_a_long_video_without_a_length_is_refused_at_the_limit(monkeypatch):
    """Matroska as it is sent on while it is made: nothing in it says how long it becomes."""
    monkeypatch.setattr(module, "_length", lambda *rest: (0.0, 0))
    made = video(150, "matroska", "mpeg4", side=16)
    np.testing.assert_allclose(brightness(watched(made, HOW)), wanted(150), atol=12)
    monkeypatch.setattr(module, "LONGEST", 100)
    with pytest.raises(Unreadable, match="over 100 frames and no length told"):
        watched(made, HOW)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
@pytest.mark.parametrize("count", [1, 3, 30])
def test_animations(format, count):
    clip = watched(animation(count, format), HOW)
    np.testing.assert_allclose(brightness(clip), wanted(count), atol=3)


def test_a_folder_of_frames_in_natural_order(tmp_path):
    for number in range(12):
        Image.new("L", (20, 20), grey(number, 12)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / ".hidden.png").write_bytes(b"")
    clip = watched(tmp_path, HOW)
    assert brightness(clip) == wanted(12)
    np.testing.assert_array_equal(clip, watched(str(tmp_path), HOW))


def test_a_path_and_its_bytes_are_seen_alike(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(video(20))
    np.testing.assert_array_equal(watched(path, HOW), watched(path.read_bytes(), HOW))


def test_frames_are_cut_in_the_middle_and_may_be_grey():
    file = io.BytesIO()
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 20:40] = 200
    Image.fromarray(picture).save(file, "GIF", save_all=True, append_images=[Image.new("RGB", (60, 20))])
    clip = watched(file.getvalue(), Watching(frames=2, size=20, channels=1, mean=(0.5,), std=(0.5,)))
    assert clip.shape == (2, 1, 20, 20)
    assert clip[0].mean() > 190 and clip[1].max() == 0


def test_a_video_of_a_turned_phone_stands_upright():
    """The matrix of the track says: show it turned by 90 degrees clockwise."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        picture = np.zeros((32, 64, 3), np.uint8)
        picture[:16] = 200
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    made = bytearray(file.getvalue())
    place = made.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), made.index(b"tkhd"))
    made[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    clip = watched(bytes(made), Watching(frames=1, size=(64, 32)))
    assert clip[0, :, :, 20:].mean() > 180 > 20 > clip[0, :, :, :12].mean()


# whatever a file holds


def sound_only() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def test_files_without_frames(tmp_path):
    (tmp_path / "folder").mkdir()
    for made in (tmp_path / "folder", sound_only()):
        with pytest.raises(Unreadable) as refused:
            watched(made, HOW)
        assert refused.value.reason == "no frames"


def wav() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(100, np.float32), 8000, format="WAV")
    return file.getvalue()


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n%s\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    "made, reason",
    [
        (b"", "empty file"),
        (b"this is text, renamed to .mp4" * 50, "no video of a known kind"),
        (video(30)[:600], "no video of a known kind"),
        (video(30)[-600:], "no video of a known kind"),
        (wav(), "no video of a known kind"),
        (b"GIF89a" + bytes(50), "no image of a known kind (JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM)"),
        (animation(9, "GIF")[:400], "truncated image"),
    ],
)
def test_bad_files_have_one_plain_reason(made, reason):
    with pytest.raises(Unreadable) as refused:
        watched(made, HOW)
    assert refused.value.reason == reason
    assert "\n" not in str(refused.value)


def test_a_file_that_names_others_opens_none(tmp_path):
    """A playlist or a list of parts would make FFmpeg read what it names."""
    (tmp_path / "secret.mp4").write_bytes(video(10))
    named = str(tmp_path / "secret.mp4")
    for text in (PLAYLIST % named.encode(), f"ffconcat version 1.0\nfile '{named}'\n".encode()):
        for name in ("clip.m3u8", "clip.mp4"):
            (tmp_path / name).write_bytes(text)
            with pytest.raises(Unreadable, match="no video of a known kind"):
                watched(tmp_path / name, HOW)


def test_absent_files(tmp_path):
    with pytest.raises(Unreadable, match="no such file"):
        watched(tmp_path / "absent.mp4", HOW)


def test_a_broken_frame_of_a_folder_is_told_by_name(tmp_path):
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(Unreadable, match=r"1\.png is not usable: no image"):
        watched(tmp_path, HOW)


def test_too_many_pixels_are_refused_by_the_header(monkeypatch):
    monkeypatch.setattr(module, "PIXELS", 1000)
    with pytest.raises(Unreadable, match="megapixels"):
        watched(video(3), HOW)


WHOLE = video(20)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_videos_are_seen_or_unreadable(data):
    place = data.draw(st.integers(0, len(WHOLE) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=60))
    begun = time.monotonic()
    try:
        clip = watched(WHOLE[:place] + junk + WHOLE[place + len(junk) :], HOW)
    except Unreadable:
        return
    finally:
        assert time.monotonic() - begun < 20
    assert 1 <= len(clip) <= 4


def test_without_pyav_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def absent(name, *rest, **named):
        if name.partition(".")[0] == "av":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match=r'pip install "tessella\[video\]"'):
        watched(WHOLE, HOW)
    assert len(watched(animation(3, "GIF"), HOW)) == 3


def test_watching_survives_json_and_refuses_nonsense():
    assert from_dict(to_dict(HOW)) == HOW
    assert HOW.size == (16, 16)
    for field, value in (("frames", 0), ("size", 0), ("mean", (0.5,)), ("std", (0.0, 1.0, 1.0)), ("channels", 2)):
        with pytest.raises(InputError):
            HOW.replace(**{field: value})


def test_shorter_clips_are_filled_with_nan():
    long, short = np.zeros((4, 3, 16, 16), np.uint8), np.full((2, 3, 16, 16), 255, np.uint8)
    made = stacked([long, short], HOW)
    assert made.shape == (2, 4, 3, 16, 16)
    assert made.isnan().flatten(2).all(dim=2).tolist() == [[False] * 4, [False, False, True, True]]
    torch.testing.assert_close(made[1, 0, :, 0, 0], (1 - torch.tensor(HOW.mean)) / torch.tensor(HOW.std))


# the stem


def stem(**changes):
    torch.manual_seed(0)
    return Clips(dim=16, tubelet=(2, 8, 8), size=(16, 24), frames=8, **changes).build().eval()


@pytest.mark.parametrize("special", [0, 1])
def test_a_tubelet_is_a_token(special):
    tokens = stem(special=special)(torch.randn(2, 7, 3, 16, 24))
    assert tokens.x.shape == (2, special + 4 * 6, 16)
    assert tokens.grid == (4, 6) and tokens.keep.all()


def test_a_token_is_its_tubelet_through_one_layer_and_its_place():
    made, clip = stem(), torch.randn(1, 4, 3, 16, 24)
    changed = clip.clone()
    changed[0, 2:4, :, 8:16, 16:24] += 1
    assert (made(changed).x != made(clip).x).any(dim=2)[0].nonzero().flatten().tolist() == [6 + 3 + 2]
    tubelet = clip[0, 2:4, :, 8:16, 16:24].transpose(0, 1).flatten()
    alone = made.tubelet.weight.flatten(1) @ tubelet + made.tubelet.bias
    placed = alone + made.positions.time.table[1] + made.positions.place[5]
    torch.testing.assert_close(made(clip).x[0, 11], placed, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("special", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_padding_is_invisible(special, count):
    made, clip = stem(special=special), torch.randn(2, count, 3, 16, 24)
    padded = torch.cat([clip, torch.full((2, 10 - count, 3, 16, 24), torch.nan)], dim=1)
    alone, beside = made(clip), made(padded)
    kept = special + -(-count // 2) * 6
    assert beside.keep.sum(dim=1).tolist() == [kept, kept] and beside.keep[:, :kept].all()
    assert torch.isfinite(beside.x).all()
    torch.testing.assert_close(beside.x[:, :kept], alone.x, atol=1e-6, rtol=1e-6)


def test_padding_is_invisible_to_a_whole_model():
    torch.manual_seed(0)
    model = Encoder(
        stem=Clips(dim=16, tubelet=(2, 8, 8), size=(16, 16), special=1),
        trunk=Plain(dim=16, depth=2, heads=2, hidden=32),
        head=Classes(dim=16, classes=3),
    )
    assert from_dict(to_dict(model)) == model
    rng, built = np.random.default_rng(0), model.build().eval()
    clips = [rng.integers(0, 256, (count, 3, 16, 16), dtype=np.uint8) for count in (4, 3, 1)]
    together = built(stacked(clips, HOW))
    for i, clip in enumerate(clips):
        torch.testing.assert_close(built(stacked([clip], HOW))[0], together[i], atol=1e-5, rtol=1e-5)


def test_nothing_but_padding_keeps_one_token_and_has_gradients():
    made = stem()
    tokens = made(torch.full((1, 3, 3, 16, 24), torch.nan))
    assert tokens.keep.sum() == 1
    tokens.x.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in made.parameters())


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match="frames of 20 x 16 pixels are not tiled by tubelets of 2 x 8 x 8"):
        from_dict({"kind": "clips", "dim": 8, "tubelet": [2, 8, 8], "size": [20, 16]})
    with pytest.raises(InputError, match="frames of 16 x 16 pixels for a model of 16 x 24; resize them"):
        stem()(torch.zeros(1, 2, 3, 16, 16))
    with pytest.raises(InputError, match="2 channels"):
        stem()(torch.zeros(1, 2, 2, 16, 24))
