"""Work ahead of need: order, errors, and an end."""

import threading
import time

import pytest

from trainer.data.ahead import Ahead


def test_results_come_in_order_whoever_is_done_first() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    with Ahead(slow_first, workers=4, depth=6) as ahead:
        assert list(ahead.each(range(20))) == [number * number for number in range(20)]
        assert list(ahead.each([])) == []
        assert list(ahead.each([7])) == [49]


def test_no_more_than_depth_is_begun() -> None:
    begun: list[int] = []
    with Ahead(begun.append, workers=1, depth=3) as ahead:
        results = ahead.each(range(100))
        next(results)
        time.sleep(0.05)
        assert len(begun) <= 4


def test_errors_reach_the_caller_in_their_place() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise KeyError("two")
        return number

    with Ahead(work, workers=2, depth=4) as ahead:
        results = ahead.each(range(5))
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(KeyError, match="two"):
            next(results)


def test_closing_ends_every_thread() -> None:
    before = threading.active_count()
    ahead: Ahead[int, None] = Ahead(lambda number: time.sleep(0.01), workers=4, depth=8)
    ahead.begin(range(1000))
    ahead.take()
    ahead.close()
    assert threading.active_count() == before
