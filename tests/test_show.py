import warnings

import pytest
import torch

from tessella import show
from tessella.errors import InputError
from tessella.show import attention_figure, save_png


@pytest.fixture
def no_korean_font(monkeypatch):
    """As on a machine without one."""
    monkeypatch.setattr(show, "_fonts", lambda: ("DejaVu Sans",))
    show._letters.cache_clear()
    yield
    show._letters.cache_clear()


def drawn(tmp_path, rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = attention_figure(rows, ["▁Mon", "day", "$x$"], torch.rand(len(rows), 3).softmax(-1), "Attention 주의")
        path = save_png(figure, tmp_path / "deep" / "map.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    return [label.get_text() for label in figure.axes[0].get_yticklabels() if label.get_text()]


def test_an_attention_map_is_saved(tmp_path):
    assert len(drawn(tmp_path, ["월", "▁2026", "a_b^c"])) == 3


def test_without_a_korean_font_letters_become_code_points(tmp_path, no_korean_font):
    assert drawn(tmp_path, ["월", "year"]) == ["U+C6D4", "year"]


def test_wrong_shapes_and_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="1 rows and 2 columns got weights of 2 x 1"):
        attention_figure(["a"], ["b", "c"], [[1.0], [0.0]])
    with pytest.raises(InputError, match=r"saved as \.png"):
        save_png(attention_figure(["a"], ["b"], [[1.0]]), tmp_path / "map.pdf")
