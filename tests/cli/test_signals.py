"""Ctrl-C: an answer stops at once with exit code 130; in a conversation only the answer ends."""
import os
import pty
import select
import signal
import time

from harness import *

LONG = ("--device", "cpu", "--temp", "5", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--context", "512")


def start(*args, **more):
    return subprocess.Popen([PROGRAM, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV, **more)


# A pipe of standard input that never ends keeps the program waiting: before and without any device work.
p = start("run", LLAMA, *LONG, stdin=subprocess.PIPE)
time.sleep(0.3)
begin = time.monotonic()
p.send_signal(signal.SIGINT)
check(p.wait(10) == 130 and time.monotonic() - begin < 5, f"SIGINT while reading the prompt: {p.returncode}")

# A file of many chunks keeps eval busy for long enough to be stopped in the middle of it.
path("text").write_text("The quick brown fox jumps over the lazy dog. " * 40000)
p = start("eval", "ppl", GEMMA, "--device", "cpu", "-f", path("text"), "--json", stdin=subprocess.DEVNULL)
time.sleep(1.0)
check(p.poll() is None, "eval is still at it")
p.send_signal(signal.SIGINT)
out = p.communicate(timeout=20)[0]
check(p.returncode == 130 and json.loads(out)["error"]["code"] == "KEPT_E_CANCELLED",
      f"SIGINT in eval: {p.returncode} {out[:200]}")

# A person at a terminal.
model = with_template(LLAMA, path("chat.gguf"), TEMPLATE)
pid, terminal = pty.fork()
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
