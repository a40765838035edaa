"""A process ends soon after a signal, whatever it is doing."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from persona_jobs.pipeline.process import STOP_SECONDS

# A loop in C that releases the interpreter's lock and never looks at signals, as a long tensor
# operation does.
NATIVE = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"
WAITING = "import threading; threading.Event().wait()"
PROGRAM = """
import sys
from persona_jobs.pipeline import process

def work(report):
    stop = process.stop_on_signals(on_overdue=lambda: process.end_overdue(report))
    print("working", flush=True)
    {body}

sys.exit(process.run_process(process.ProcessReport("mask", "ab"), work))
"""


def start(body, folder):
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PERSONA_TERMINATION_MESSAGE": str(folder / "message")},
    )
    assert running.stdout.readline() == "working\n"
    return running


def end(running, *, timeout=30):
    started = time.monotonic()
    try:
        code = running.wait(timeout=timeout)
    finally:
        running.kill()
        running.communicate()
    return code, time.monotonic() - started


@pytest.mark.parametrize("body", [NATIVE, WAITING], ids=["native code", "waiting"])
def test_work_that_does_not_look_at_the_flag_is_ended(tmp_path, body):
    running = start(body, tmp_path)
    running.send_signal(signal.SIGTERM)
    code, seconds = end(running)
    assert code == 143
    assert STOP_SECONDS - 1 < seconds < 10
    message = json.loads((tmp_path / "message").read_text())
    assert (message["stage"], message["key"]) == ("mask", "ab")
    assert message["outcome"] == "Interrupted"


def test_a_second_signal_ends_it_at_once(tmp_path):
    running = start(NATIVE, tmp_path)
    running.send_signal(signal.SIGINT)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    code, seconds = end(running)
    assert code == 143
    assert seconds < 3


def test_work_that_looks_at_the_flag_ends_by_itself(tmp_path):
    body = "import time\n    while True: time.sleep(0.05); stop.check()"
    running = start(body, tmp_path)
    running.send_signal(signal.SIGTERM)
    code, seconds = end(running)
    assert code == 143
    assert seconds < 3
    assert (
        "stopped on request" in json.loads((tmp_path / "message").read_text())["failure"]["message"]
    )


def test_a_state_that_is_being_saved_is_waited_for(tmp_path):
    body = f"import time\n    with stop.while_saving(): time.sleep({STOP_SECONDS + 2})"
    running = start(body, tmp_path)
    running.send_signal(signal.SIGTERM)
    code, seconds = end(running)
    assert code == 0
    assert seconds > STOP_SECONDS + 1
    assert json.loads((tmp_path / "message").read_text())["outcome"] == "Done"
