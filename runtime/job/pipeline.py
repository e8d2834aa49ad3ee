"""Reading, working and writing at the same time: three threads, and bounded queues between them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")
Result_contra = TypeVar("Result_contra", contravariant=True)

DEPTH = 4
"""Items that may wait between two threads."""
POLL_SECONDS = 0.2
"""How often a wait looks whether it should stop."""


class AbandonedError(Exception):
    """The consumer wants no more."""


class Channel(Generic[T]):
    """Items in order from one producer to one consumer.

    The producer calls `put`, at last `finish`; the consumer iterates, and calls `abandon` when it gives up early.

    Attributes:
        exhausted: whether the producer finished and everything was taken.
    """

    def __init__(self, depth: int = DEPTH) -> None:
        self.exhausted = False
        self._depth = depth
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._abandoned = False
        self._failure: BaseException | None = None

    def put(self, item: T) -> None:
        """Hand an item over, when there is room.

        Raises:
            AbandonedError: the consumer gave up.
        """
        with self._changed:
            while len(self._items) >= self._depth and not self._abandoned:
                self._changed.wait()
            if self._abandoned:
                raise AbandonedError
            self._items.append(item)
            self._changed.notify_all()

    def finish(self, failure: BaseException | None = None) -> None:
        """No item follows; the consumer meets `failure`, if any, behind the last one."""
        with self._changed:
            self._finished = True
            self._failure = failure
            self._changed.notify_all()

    def abandon(self) -> None:
        """No further item is wanted; those waiting are dropped."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()

    def items(self, stop: threading.Event | None = None) -> Iterator[T]:
        """Items until the producer finishes, or until `stop` is set."""
        while stop is None or not stop.is_set():
            with self._changed:
                if not self._items and not self._finished:
                    self._changed.wait(POLL_SECONDS)
                if not self._items:
                    if not self._finished:
                        continue
                    if self._failure is not None:
                        raise self._failure
                    self.exhausted = True
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


class Sink(Protocol[Result_contra]):
    """The end of a pipeline."""

    def write(self, result: Result_contra, /) -> None:
        """Write one result."""

    def close(self) -> None:
        """Finish what was written, in good order or after a failure."""


def overlapped(
    items: Iterable[Item],
    work: Callable[[Item], Result],
    sink: Sink[Result],
    stop: threading.Event,
    *,
    depth: int = DEPTH,
) -> bool:
    """Take items from one thread, work on them in the caller's, write the results in another.

    Whatever happens, every result is written, as far as the sink can, and the sink is closed before this returns.

    Args:
        items: is iterated in a thread of its own.
        work: is called in the caller's thread.
        sink: is written and closed in a thread of its own.
        stop: once set, no further item is begun.
        depth: items that may wait for the work.

    Returns:
        Whether all items were worked on; False if it was stopped before.

    Raises:
        Exception: the first failure of any of the three.
    """
    inputs: Channel[Item] = Channel(depth)
    outputs: Channel[Result] = Channel()
    failures: list[BaseException] = []
    reader = threading.Thread(target=_read, args=(items, inputs), name="reader", daemon=True)
    writer = threading.Thread(target=_write, args=(outputs, sink, failures), name="writer")
    reader.start()
    writer.start()
    try:
        for item in inputs.items(stop):
            outputs.put(work(item))
    except AbandonedError:
        pass
    finally:
        inputs.abandon()
        outputs.finish()
        # A reader that passes over frames looks up at the next one that is wanted; nobody has to wait for that.
        reader.join(POLL_SECONDS)
        writer.join()
        if failures:
            raise failures[0]
    return inputs.exhausted


def _read(items: Iterable[Item], inputs: Channel[Item]) -> None:
    try:
        for item in items:
            inputs.put(item)
    except AbandonedError:
        return
    except BaseException as failure:
        inputs.finish(failure)
    else:
        inputs.finish()


def _write(outputs: Channel[Result], sink: Sink[Result], failures: list[BaseException]) -> None:
    try:
        for result in outputs.items():
            sink.write(result)
    except BaseException as failure:
        failures.append(failure)
        outputs.abandon()
    try:
        sink.close()
    except BaseException as failure:
        failures.append(failure)
