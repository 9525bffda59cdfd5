"""Work done ahead of need: threads prepare what comes next while the caller is busy with what is there."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class Ahead(Generic[A, B]):
    """`work` done in `workers` threads on up to `depth` items before they are asked for; results in order.

    An exception of `work` reaches whoever takes that result. To be closed, or used in a `with`.
    """

    def __init__(self, work: Callable[[A], B], workers: int, depth: int) -> None:
        self.work, self.workers, self.depth = work, workers, depth
        self._threads = self._begun()
        self._pending: deque[tuple[A, Future[B]]] = deque()
        self._items: Iterator[A] = iter(())

    def _begun(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.workers, thread_name_prefix="ahead")

    @property
    def waiting(self) -> int:
        """How many results are prepared, or being prepared, and not yet taken."""
        return len(self._pending)

    def expects(self, item: A) -> bool:
        """Whether `item` is the one whose result comes next."""
        return bool(self._pending) and self._pending[0][0] == item

    def begin(self, items: Iterable[A]) -> None:
        """Go on with these items; what was prepared and not taken is dropped."""
        self._drop()
        self._items = iter(items)

    def take(self) -> B:
        """The next result. `StopIteration` after the last."""
        while len(self._pending) < self.depth and (item := next(self._items, None)) is not None:
            self._pending.append((item, self._threads.submit(self.work, item)))
        if not self._pending:
            raise StopIteration
        return self._pending.popleft()[1].result()

    def each(self, items: Iterable[A]) -> Iterator[B]:
        """The results for all of `items`."""
        self.begin(items)
        while True:
            try:
                result = self.take()
            except StopIteration:
                return
            yield result

    def rest(self) -> None:
        """Let the threads end; new ones are started when there is work again."""
        self.close()
        self._items = iter(())
        self._threads = self._begun()

    def close(self) -> None:
        """Drop what is pending and let the threads end."""
        self._drop()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _drop(self) -> None:
        while self._pending:
            self._pending.popleft()[1].cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
