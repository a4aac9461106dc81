"""Schedules: pure functions of the step, with the shapes their papers draw."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessella.errors import InputError
from tessella.schedules import Constant, Cosine, InverseSqrt, Noam
from tessella.spec import from_dict, to_dict

STEPS = st.integers(1, 10**6)
WARMUPS = st.integers(1, 20_000)
PEAKS = st.floats(1e-6, 1.0)


@given(STEPS, WARMUPS, st.integers(1, 4096))
def test_noam_is_the_paper(step, warmup, width):
    rate = Noam(width=width, warmup=warmup).rate(step)
    assert rate == width**-0.5 * min(step**-0.5, step * warmup**-1.5)
    peak = Noam(width=width, warmup=warmup).rate(warmup)
    assert 0 < rate <= peak * (1 + 1e-12)
    assert math.isclose(InverseSqrt(peak=peak, warmup=warmup).rate(step), rate, rel_tol=1e-9)


@given(STEPS, WARMUPS, PEAKS)
def test_inverse_sqrt_peaks_at_the_end_of_the_warm_up(step, warmup, peak):
    made = InverseSqrt(peak=peak, warmup=warmup)
    assert made.rate(warmup) == pytest.approx(peak)
    assert 0 < made.rate(step) <= peak * (1 + 1e-12)
    before, after = made.rate(step), made.rate(step + 1)
    assert after > before if step + 1 <= warmup else after < before


@given(STEPS, st.integers(0, 20_000), st.integers(1, 10**5), PEAKS, st.floats(0, 1))
def test_cosine_falls_from_peak_to_final(step, warmup, length, peak, share):
    made = Cosine(peak=peak, warmup=warmup, final=peak * share, steps=warmup + length)
    assert 0 <= made.rate(step) <= peak * (1 + 1e-12)
    assert made.rate(warmup + length + step) == pytest.approx(peak * share)
    if step >= warmup:
        assert made.rate(step + 1) <= made.rate(step) * (1 + 1e-12)
        assert made.rate(step) >= peak * share * (1 - 1e-12)
    assert Cosine(peak=peak, warmup=warmup, final=peak * share).rate(step, warmup + length) == made.rate(step)


@given(STEPS, st.integers(0, 100), PEAKS)
def test_constant(step, warmup, peak):
    made = Constant(peak=peak, warmup=warmup)
    assert made.rate(step) == (peak if step >= warmup else peak * (step / warmup))
    assert from_dict(to_dict(made)) == made


def test_cosine_wants_a_length():
    with pytest.raises(InputError, match=r"schedule\.steps"):
        Cosine().rate(1)
    with pytest.raises(InputError, match="falls"):
        from_dict({"kind": "cosine", "peak": 1e-3, "final": 1e-2})
    with pytest.raises(InputError, match="more steps"):
        from_dict({"kind": "cosine", "warmup": 10, "steps": 10})
