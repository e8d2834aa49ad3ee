"""When work is called, captured and replayed; the lane counts instead of capturing, which takes a GPU."""

import gc
import threading

import pytest
from jointrt.runtime.device.replay import Replay, undisturbed


class CountingLane:
    """A lane with a stream whose graphs say when they are replayed."""

    stream = object()

    def __init__(self):
        self.log = []

    def capture(self, function, scratch):
        self.log.append("capture")
        return self

    def replay(self):
        self.log.append("replay")


def in_another_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_the_second_call_is_captured_and_replayed():
    lane = CountingLane()
    replay = Replay(lane, None, capturable=True)
    for _ in range(3):
        replay(lambda: lane.log.append("call"))
    assert lane.log == ["call", "capture", "replay", "replay"]


def test_a_thread_calls_before_it_captures():
    """What libraries prepare at a first call is a thread's own; a graph is replayed from any."""
    lane = CountingLane()
    replay = Replay(lane, None, capturable=True)

    def once():
        replay(lambda: lane.log.append("call"))

    once()
    # A thread that has ended may leave its number to the next one.
    in_another_thread(once)
    in_another_thread(once)
    assert lane.log == ["call", "call", "call"]
    once()
    once()
    in_another_thread(once)
    assert lane.log == ["call", "call", "call", "call", "capture", "replay", "replay"]


def test_what_cannot_be_captured_is_called():
    lane = CountingLane()
    replay = Replay(lane, None, capturable=False)
    for _ in range(3):
        replay(lambda: lane.log.append("call"))
    assert lane.log == ["call"] * 3


def test_nothing_is_collected_within_a_capture_and_the_next_one_may_begin_after_a_failure():
    with pytest.raises(RuntimeError), undisturbed():
        assert not gc.isenabled()
        raise RuntimeError
    assert gc.isenabled()
    with undisturbed():
        pass
