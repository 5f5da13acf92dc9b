"""SIGINT, SIGTERM and SIGHUP: held back, swallowed, ignored, repeated, and before all imports."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from support.paths import ROOT
from support.run_main import call_main

from batnet_jax.modes import metrics
from batnet_jax.runtime import signals
from batnet_jax.runtime.signals import Signals, Terminated

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}


@pytest.fixture(autouse=True)
def handlers():
    """Restore the handlers of this process."""
    before = {number: signal.getsignal(number) for number in (*NUMBERS, signal.SIGALRM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0)  # Python runs handlers between its instructions


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_is_raised_with_its_status(number):
    with pytest.raises(Terminated) as raised, Signals().listen():
        send(number)
    assert (raised.value.number, raised.value.status) == (number, STATUS[number])
    assert raised.value.word == WORDS[number]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_held_signal_waits(number):
    listener = Signals()
    with listener.listen(), listener.held():
        listener.check()
        send(number)
        assert listener.wanted == number
        with pytest.raises(Terminated) as raised:
            listener.check()
    assert raised.value.number == number


def test_a_hold_can_be_interrupted():
    listener, reached = Signals(), []
    with listener.listen(), listener.held():
        with pytest.raises(Terminated), listener.held(False):
            send(signal.SIGTERM)
        reached.append(True)
    assert reached


@pytest.mark.parametrize("number", NUMBERS)
def test_what_the_parent_ignores_stays_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    signals.end_on_signals()
    listener = Signals()
    with listener.listen():
        send(number)
    assert listener.wanted is None
    assert signal.getsignal(number) is signal.SIG_IGN


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP])
def test_of_several_signals_the_first_counts(second):
    """The second arrives while the first one's cleaning is under way, in an outer handler."""
    cleaned = []

    def work():
        with Signals().listen():
            try:
                send(signal.SIGTERM)
            finally:
                send(second)
                cleaned.append("inside")

    def work_in_an_outer_handler():
        with Signals().listen(), contextlib.ExitStack() as stack:
            stack.callback(cleaned.append, "outside")
            stack.callback(send, second)
            work()

    with pytest.raises(Terminated) as raised:
        work_in_an_outer_handler()
    assert raised.value.number == signal.SIGTERM
    assert cleaned == ["inside", "outside"]


def test_a_second_control_c_ends_at_once(monkeypatch):
    ended = []
    monkeypatch.setattr(signals, "end_at_once", ended.append)
    listener = Signals()
    with listener.listen(), listener.held():
        send(signal.SIGINT)
        assert ended == []
        send(signal.SIGINT)
    assert ended == [signal.SIGINT]


def test_another_command_hears_signals_anew():
    for _ in range(2):
        with pytest.raises(Terminated), Signals().listen():
            send(signal.SIGTERM)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_handlers_before_come_back(number):
    before = signal.getsignal(number)
    with Signals().listen():
        assert signal.getsignal(number) is not before
    assert signal.getsignal(number) is before


def test_one_of_several_processes_takes_sighup_for_sigterm():
    """JAX has the handler of SIGTERM."""
    arrived = []
    signal.signal(signal.SIGTERM, lambda number, _: arrived.append(number))
    with Signals().listen(alone=False):
        send(signal.SIGHUP)
        send(signal.SIGTERM)
    assert arrived == [signal.SIGTERM] * 2


def test_a_signal_within_a_destructor_is_not_lost(monkeypatch):
    """Python prints an exception of a destructor and goes on."""

    class Destroyed:
        def __del__(self):
            send(signal.SIGHUP)

    def work():
        Destroyed()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.01)

    monkeypatch.setattr(sys, "unraisablehook", lambda one: signals.raise_again(one.exc_value))
    with pytest.raises(Terminated) as raised, Signals().listen():
        work()
    assert raised.value.number == signal.SIGHUP
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize("number", NUMBERS)
def test_a_mode_ends_with_a_line_and_a_status(number, monkeypatch):
    monkeypatch.setattr(metrics, "run", lambda *_, **__: send(number))
    status, errors = call_main("metrics", "a.npz", "b.npz")
    assert status == STATUS[number]
    assert errors == f"{WORDS[number]}; the same command starts from the beginning\n"


WAITING = """
from batnet_jax.runtime.signals import end_on_signals, ignore_signals
import time
{before}()
print("ready", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def waiting(before, **options):
    """Yield a process that has called a function and waits."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITING.format(before=before)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, **options,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", NUMBERS)
def test_before_the_work_a_signal_ends_at_once(number):
    with waiting("end_on_signals") as process:
        process.send_signal(number)
        assert process.communicate(timeout=60) == ("", f"{WORDS[number]}\n")
    assert process.returncode == STATUS[number]


def test_nohup():
    command = ["nohup", sys.executable, "-c", WAITING.format(before="end_on_signals")]
    with subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[1].splitlines()[-1] == "terminated"
    assert process.returncode == 143


def test_after_the_work_signals_are_ignored():
    with waiting("ignore_signals") as process:
        for number in NUMBERS:
            process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=0.2)


def test_the_main_program_imports_little_before_it_hears_signals():
    """Everything else is imported behind the handler."""
    program = "import sys, batnet_jax.main; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    loaded = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    own = {name for name in loaded.split() if name.startswith("batnet_jax")}
    names = {"batnet_jax", "batnet_jax.main", "batnet_jax.runtime", "batnet_jax.runtime.signals"}
    assert own == names
    assert not {"jax", "numpy", "absl", "ml_collections"} & set(loaded.split())
