"""What the end of a client means to who waits for something of it, and to the adapter that it made."""

from __future__ import annotations

import threading

import pytest

from lifecycle import Client, UsageError
from lifecycle_adapters.memory import MemoryAdapter


def test_a_wait_for_the_end_of_a_session_that_never_began_ends_with_the_client() -> None:
    client = Client(adapter="memory", store="memory:")
    session = client.Session()
    raised: list[BaseException] = []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        try:
            session.wait_ended(timeout=30)
        except UsageError as e:
            raised.append(e)

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(10)
    client.close()
    thread.join(10)
    assert not thread.is_alive()
    assert "closed" in str(raised[0])


def test_events_of_a_closed_client_are_refused_at_once() -> None:
    client = Client(adapter="memory", store="memory:")
    client.close()
    with pytest.raises(UsageError, match="closed"):
        client.events()


class Counting(MemoryAdapter):
    closings = 0

    async def aclose(self) -> None:
        Counting.closings += 1
        await super().aclose()


def test_an_adapter_that_the_client_made_is_given_up_with_it_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifecycle_adapters.memory.MemoryAdapter", Counting)
    Client(adapter="memory", store="memory:").close()
    assert Counting.closings == 1
    Client(adapter=Counting(), store="memory:").close()
    assert Counting.closings == 1
