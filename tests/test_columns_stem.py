"""The stem of numbers and categories: one token a column."""

from __future__ import annotations

import math

import pytest
import torch

from tessella.errors import InputError
from tessella.spec import from_dict, to_dict
from tessella.stems.columns import Columns

NAN = math.nan
ROWS = torch.tensor([[0.5, 2.0, -1.0, 1.0], [NAN, 0.0, 2.0, NAN], [1.5, 3.0, NAN, 2.0]])


def stem(**more):
    made = Columns(dim=6, sizes=(0, 3, 0, 2), **more).build()
    return made.eval()


def test_tokens_by_hand():
    """Gorishniy et al. 2021, sec. 3.3: b + x * w of a number, b + the value's row of a category."""
    made = stem()
    tokens = made(ROWS)
    assert tokens.x.shape == (3, 4, 6) and tokens.keep is None
    w, table, b = made.weight, made.table.weight, made.bias
    torch.testing.assert_close(tokens.x[0, 0], b[0] + 0.5 * w[0, 0])
    torch.testing.assert_close(tokens.x[0, 2], b[2] - w[1, 0])
    torch.testing.assert_close(tokens.x[0, 1], b[1] + table[2])  # rows 0 to 3 are those of column 1
    torch.testing.assert_close(tokens.x[1, 1], b[1] + table[0])  # never seen
    torch.testing.assert_close(tokens.x[2, 3], b[3] + table[4 + 2])


def test_what_is_missing_is_the_vector_of_its_column():
    made = stem(periods=2)
    tokens = made(ROWS)
    for row, column in ((1, 0), (1, 3), (2, 2)):
        torch.testing.assert_close(tokens.x[row, column], made.absent[column])
    assert tokens.x.isfinite().all()
    tokens.x.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def test_periods_of_zero_weight_leave_the_line():
    plain, made = stem(), stem(periods=3)
    made.load_state_dict(
        {**made.state_dict(), "table.weight": plain.table.weight, "bias": plain.bias, "absent": plain.absent}
    )
    with torch.no_grad():
        made.weight[:, :1] = plain.weight
        made.weight[:, 1:] = 0
    torch.testing.assert_close(made(ROWS).x, plain(ROWS).x)


def test_columns_do_not_see_each_other():
    made = stem(periods=1)
    other = ROWS.clone()
    other[:, 2] = 7
    same = (made(ROWS).x == made(other).x).all(2).all(0)
    assert same.tolist() == [True, True, False, True]


@pytest.mark.parametrize("sizes", [(0, 0), (3, 1, 2)])
def test_numbers_alone_and_categories_alone(sizes):
    made = Columns(dim=4, sizes=sizes, periods=2).build().eval()
    x = torch.ones(2, len(sizes))
    made(x).x.sum().backward()
    assert made(x).x.shape == (2, len(sizes), 4)
    assert [name for name, p in made.named_parameters() if p.grad is None or not p.numel()] == []


def test_training_hides_a_share_of_the_cells():
    x = torch.tensor([[0.5, 2.0]]).repeat(20_000, 1)
    made = Columns(dim=4, sizes=(0, 3), unseen=0.1, missing=0.05).build().train()
    tokens = made(x).x
    absent = (tokens == made.absent).all(2).float().mean(0)
    assert absent.tolist() == pytest.approx([0.05, 0.05], abs=0.01)
    unseen = (tokens[:, 1] - made.bias[1] - made.table.weight[0]).abs().amax(1) < 1e-6
    assert unseen.float().mean().item() == pytest.approx(0.1 * 0.95, abs=0.01)
    whole = Columns(dim=4, sizes=(0, 3), unseen=0, missing=0).build()
    assert torch.equal(whole.train()(x).x, whole.eval()(x).x)


def test_a_spec_is_plain_data():
    spec = Columns(dim=6, sizes=(0, 3), periods=2)
    assert from_dict(to_dict(spec)) == spec


@pytest.mark.parametrize("sizes", [(), (0, -1)])
def test_sizes_that_make_no_sense(sizes):
    with pytest.raises(InputError, match="sizes are one a column"):
        from_dict({"kind": "columns", "dim": 4, "sizes": sizes})


def test_rows_of_another_length_are_refused():
    with pytest.raises(InputError, match="a row has 3 columns; this model was made for 4"):
        stem()(torch.zeros(2, 3))
