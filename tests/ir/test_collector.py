"""The guard of the cyclic garbage collector: nested, across threads, and where the user runs without collection."""

import gc
import threading

import pytest

from graphopt.ir import collector_paused, collector_running


@pytest.fixture(params=[True, False], ids=["enabled before", "disabled before"])
def enabled(request):
    """Whether collection was on before; restored afterwards."""
    before = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if before else gc.disable)()


def test_pauses_nest(enabled):
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled() == enabled


def test_a_resumption_within_a_pause(enabled):
    with collector_paused():
        with collector_running():
            assert gc.isenabled() == enabled
            with collector_paused():
                assert not gc.isenabled()
            assert gc.isenabled() == enabled
        assert not gc.isenabled()
    assert gc.isenabled() == enabled


def test_a_resumption_alone_changes_nothing(enabled):
    with collector_running():
        assert gc.isenabled() == enabled
    assert gc.isenabled() == enabled


def test_an_error_ends_the_pause(enabled):
    with pytest.raises(ValueError), collector_paused():
        raise ValueError
    assert gc.isenabled() == enabled


def test_the_last_of_two_threads_ends_the_pause(enabled):
    """The pauses overlap without nesting: A begins, B begins, A ends, B ends."""
    both, ended = threading.Barrier(2), threading.Event()
    seen = {}

    def first():
        with collector_paused():
            both.wait()
        seen["after the first"] = gc.isenabled()
        ended.set()

    def second():
        with collector_paused():
            both.wait()
            ended.wait()
            seen["within the second"] = gc.isenabled()

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"after the first": False, "within the second": False}
    assert gc.isenabled() == enabled
