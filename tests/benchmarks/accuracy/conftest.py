import pytest


class Counting:
    """A display that counts, and to which nothing may be said."""

    def begin(self, total, done):
        self.total, self.done = total, done

    def advance(self):
        self.done += 1

    def note(self, text):
        raise AssertionError(text)


@pytest.fixture
def display():
    return Counting()
