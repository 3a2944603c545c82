"""A signal ends a process in seconds, whatever it is at."""

import os
import signal
import time

import light
import pytest

from qra.runs.signals import Stoppable, Stopped

SCRIPT = """
import signal, sys, time
from qra.runs.signals import Stoppable, rearm
signal.signal(signal.SIGINT, signal.default_int_handler)

def tell(number):
    return f"stopped by {number.name}; go on"

with Stoppable(tell, grace=0.3):
    %s
"""
WORK = {
    "that returns": "print('at work', flush=True); time.sleep(60)",
    "that swallows every exception": """
    print('at work', flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
""",
    "whose library took the signals": """
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    rearm()
    print('at work', flush=True)
    time.sleep(60)
""",
    "whose library keeps the signals": """
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    print('at work', flush=True)
    time.sleep(60)
""",
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("work", WORK)
def test_work_ends_with_one_line_and_the_code_of_the_signal(work, number):
    script = SCRIPT % WORK[work]
    with light.start(script) as process:
        assert process.stdout.readline() == "at work\n"
        process.send_signal(number)
        began = time.monotonic()
        assert process.wait(10) == 128 + number
        assert time.monotonic() - began < 5
        assert process.stderr.read() == f"qra: stopped by {number.name}; go on\n"


def test_the_handlers_that_were_there_are_there_again():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Stopped, match="143"), Stoppable(lambda number: ""):
        os.kill(os.getpid(), signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stoppable(lambda number: ""):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
    finally:
        signal.signal(signal.SIGINT, before)
