"""How widths are split, against LyCORIS's own functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.adapters.lycoris.factors import butterfly, smallest_butterfly, split, stages

WIDTHS = [4, 7, 24, 77, 320, 640, 768, 1024, 1280, 2560, 3072, 5120, 10240]


@pytest.mark.parametrize("factor", [-1, 1, 2, 3, 4, 5, 7, 8, 10, 16, 64, 100000])
def test_the_split_is_that_of_lycoris(factor: int) -> None:
    from lycoris.functional.general import factorization, power2factorization

    for width in WIDTHS:
        assert split(width, factor) == factorization(width, factor)
        if factor > 0:
            block, count = power2factorization(width, factor)
            assert butterfly(width, factor) == ((block, count) if count else (0, 0))


@given(st.integers(1, 5000), st.integers(-1, 200).filter(bool))
def test_two_factors_make_the_width(width: int, factor: int) -> None:
    small, large = split(width, factor)
    assert small * large == width
    assert small <= large


@given(st.integers(1, 5000), st.integers(1, 600))
def test_a_butterfly_reaches_every_place(width: int, limit: int) -> None:
    """Blocks are even and of at most the limit, as many as a power of two; the stages join all of them."""
    block, count = butterfly(width, limit)
    if count:
        assert block * count == width
        assert block % 2 == 0
        assert block <= limit
        assert count & (count - 1) == 0
        assert 2 ** (stages(count) - 1) == count
    else:
        assert smallest_butterfly(width) == 0 or limit < smallest_butterfly(width)
