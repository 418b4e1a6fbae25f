"""Ctrl-C: what runs stops at once with exit code 130."""
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
finish()
