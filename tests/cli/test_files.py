"""Bad model files and bad prompts: one sentence, the right exit code, never a crash."""
import random
import struct

from harness import *

raw = LLAMA.read_bytes()
RUN = ("-p", "hello", "-n", "1", "--device", "cpu", "--raw")


def damaged(name, data):
    path(name).write_bytes(data)
    return path(name)


def unusable(file, *says):
    for command in (("run", file, *RUN), ("plan", file, "--device", "cpu"), ("tokenize", file, "-p", "a")):
        fails(3, *command, says=says)


unusable(path("missing.gguf"), "missing.gguf")
unusable(FOLDER.name)
unusable(damaged("empty.gguf", b""), "empty.gguf")
unusable(damaged("magic.gguf", b"NOPE" + raw[4:]))
unusable(damaged("version.gguf", raw[:4] + struct.pack("<I", 99) + raw[8:]), "99")
unusable(damaged("tensors.gguf", raw[:8] + struct.pack("<Q", 2**63) + raw[16:]))
unusable(damaged("values.gguf", raw[:16] + struct.pack("<Q", 2**40) + raw[24:]))
unusable(damaged("architecture.gguf", raw.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lemma")), "lemma")
for at in (100, 4096, 8192, len(raw) // 2):
    fails(3, "run", damaged("short.gguf", raw[:at]), *RUN, says=["short.gguf"])
fails(3, "run", damaged("shorter.gguf", raw[:-64]), *RUN, says=["shorter.gguf"])

flips = random.Random(3)
for _ in range(24):                                              # anything may come of them but a crash
    at = flips.randrange(24, 6000)
    file = damaged("flip.gguf", raw[:at] + bytes([raw[at] ^ 1 << flips.randrange(8)]) + raw[at + 1:])
    rc, out, err = kept("run", file, *RUN)
    check(rc in (0, 2, 3, 4), f"bit flip in byte {at}: exit code {rc}: {err[:200]}")

fails(3, "inspect", path("magic.gguf"))
info = kept_json("inspect", path("architecture.gguf"), "--tensors")
check(info["usable"] is False and info["why_not"] and len(info["tensors"]) == info["n_tensors"],
      "inspect shows what kept cannot run")
info = kept_json("inspect", LLAMA, "--tensors")
check(info["usable"] and info["metadata"]["general.architecture"] == "llama", "inspect")
check({"name", "format", "dims", "offset", "bytes"} <= set(info["tensors"][0]), "inspect --tensors")

run = ("run", LLAMA, "--device", "cpu", "--raw", "-n", "1")
fails(2, *run, "-p", "", says=["empty"])
fails(2, *run, says=["empty"])                                   # an empty pipe
path("invalid.txt").write_bytes(b"fine \xc3\x28 not")
fails(2, *run, "-f", path("invalid.txt"), says=["5"])
fails(2, *run, "-f", "-", stdin=b"\xff\xfe", says=["0"])
fails(2, *run, "-p", "word " * 400, "--context", "64", says=["64"])
fails(2, *run, "-p", "a", "-f", path("invalid.txt"), says=["-p and -f"])
fails(3, *run, "-f", path("nothing.txt"), says=["nothing.txt"])
fails(2, *run, "-p", "a", "--context", "100000", "--retain", "full", says=["100000"])
fails(2, *run, "-p", "a", "--system", "b", says=["--system"])
fails(3, "chat", LLAMA, "--device", "cpu", says=["chat template"])
finish()
