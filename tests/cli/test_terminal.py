"""A person at a terminal: line editing, Ctrl-C, /commands and Ctrl-D in a conversation. Exit code 77 where the system
has no pseudo-terminals (a chroot without /dev/pts)."""
import os
import pty
import select
import signal
import sys
import time

from harness import *

LONG = ("--device", "cpu", "--temp", "5", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--context", "512")

model = with_template(LLAMA, path("chat.gguf"), TEMPLATE)
try:
    pid, terminal = pty.fork()
except OSError as why:
    print(f"skipped: no pseudo-terminal: {why}")
    sys.exit(77)
if pid == 0:
    os.environ.update(ENV, TERM="xterm")
    os.execv(PROGRAM, [PROGRAM, "chat", str(model), *LONG])
seen = b""


def wait_for(words, seconds=20):
    global seen
    end = time.monotonic() + seconds
    while words not in seen and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:
                break
    found, rest = words in seen, seen.partition(words)[2]
    seen = rest if found else seen
    return found


def press(keys):
    time.sleep(0.3)                                              # libedit shows its prompt before it takes single keys
    os.write(terminal, keys)


check(wait_for(b"> "), f"a prompt: {seen!r}")
press(b"half a li\x03")
check(wait_for(b"> "), "Ctrl-C drops the line and asks again")
press(b"/memory\r")
check(wait_for(b"tokens of context are used"), f"/memory: {seen!r}")
press(b"/plan\r")
check(wait_for(b"Fits"), f"/plan: {seen!r}")
check(wait_for(b"> "), "and a prompt again")
press(b"hello\r")
check(wait_for(b"generated at"), f"the summary of an answer: {seen!r}")
check(wait_for(b"> "), "and a prompt after it")
press(b"\x04")
done, status, end = 0, None, time.monotonic() + 20
while not done and time.monotonic() < end:
    wait_for(b"nothing more", 0.1)
    done, status = os.waitpid(pid, os.WNOHANG)
    time.sleep(0.01)
if not done:
    os.kill(pid, signal.SIGKILL)
    status = None
check(status is not None and os.waitstatus_to_exitcode(status) == 0, f"Ctrl-D ends the conversation: {status}")
finish()
