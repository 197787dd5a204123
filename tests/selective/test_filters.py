"""The Gabor bank against its formulas."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skal.selective.filters import gabor_bank
from tests.reference.retrieval import plain_gabor


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((3, 4), {"size": 31}), ((2, 5), {"size": 21, "low": 0.1, "high": 0.3}), ((2, 2), {"size": 20})],
)
def test_gabor_bank_equals_the_formulas(args, kwargs):
    S, K = args or (4, 6)
    got = gabor_bank(*args, **kwargs)
    want = plain_gabor(S, K, **kwargs)
    assert np.iscomplexobj(got)
    assert got.shape == want.shape
    assert_allclose(got, want, atol=1e-6 * abs(want).max())


def test_gabor_bank_properties():
    bank = gabor_bank()
    assert_allclose(bank.sum((1, 2)), 0, atol=1e-4)
    # g(-x, -y) = conj(g(x, y))
    assert_allclose(bank[:, ::-1, ::-1], bank.conj(), atol=1e-6)
    # orientation 0 oscillates along x: its imaginary part vanishes on the column x = 0
    assert_allclose(bank[0, :, 30].imag, 0, atol=1e-6)
    # the peak of the spectrum of scale m lies at high * a^-m
    for m in range(4):
        spectrum = abs(np.fft.fft2(bank[6 * m], (256, 256)))
        row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
        assert row in (0, 1, 255)
        assert abs(abs(np.fft.fftfreq(256)[column]) - 0.4 * 2.0**-m) < 0.03
