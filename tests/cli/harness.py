"""What the tests of the program share: running it, and saying what was expected.

Every test file is called as test_X.py KEPT SOURCE_ROOT and ends with finish(). Models are the tiny ones of
tests/golden.
"""
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

PROGRAM = sys.argv[1]
GOLDEN = pathlib.Path(sys.argv[2]) / "tests" / "golden"
LLAMA, GEMMA = GOLDEN / "tiny-llama-k.gguf", GOLDEN / "tiny-gemma3.gguf"
TEMPLATE = ("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}[assistant] {% endif %}")
FOLDER = tempfile.TemporaryDirectory()
ENV = {**os.environ, "LC_ALL": "C.UTF-8"}
failures = []


def path(name):
    return pathlib.Path(FOLDER.name) / name


def kept(*args, stdin=b"", text=True):
    """Exit code, standard output and standard error of the program."""
    if isinstance(stdin, str):
        stdin = stdin.encode()
    p = subprocess.run([PROGRAM, *map(str, args)], input=stdin, capture_output=True, timeout=120, env=ENV)
    if p.returncode == 127:
        sys.exit(f"the program does not start: {p.stderr}")
    out = p.stdout.decode("utf-8", "replace") if text else p.stdout
    return p.returncode, out, p.stderr.decode("utf-8", "replace")


def kept_json(*args, code=0, **more):
    """The one JSON object that a command with --json prints."""
    rc, out, err = kept(*args, "--json", **more)
    check(rc == code, f"{args}: exit code {rc}, not {code}: {out[:300]} {err[:300]}")
    check(err == "", f"{args}: nothing on standard error, got {err[:200]!r}")
    try:
        return json.loads(out)
    except ValueError:
        check(False, f"{args}: not one JSON object: {out[:300]!r}")
        return {}


def fails(code, *args, says=(), **more):
    """The command fails with this code and one sentence that has these words, as text and as JSON."""
    rc, out, err = kept(*args, **more)
    check(rc == code, f"{args}: exit code {rc}, not {code}: {err[:300]}")
    check(err.startswith("kept: "), f"{args}: a sentence on standard error: {err[:200]!r}")
    for words in says:
        check(words in err, f"{args}: {words!r} in {err[:400]!r}")
    error = kept_json(*args, code=code, **more).get("error", {})
    check(str(error.get("code", "")).startswith("KEPT_E_"), f"{args}: error.code in {error}")
    check(len(str(error.get("message", ""))) > 10, f"{args}: error.message in {error}")
    return error


def check(good, what):
    if not good:
        failures.append(what)
        print(f"FAILED: {what}")


def with_template(source, to, template):
    """A copy of a model with a chat template: one more value at the head, padded so that tensors stay aligned."""
    raw = pathlib.Path(source).read_bytes()
    magic, version, n_tensors, n_values = struct.unpack_from("<IIQQ", raw)
    key = b"tokenizer.chat_template"
    room = -(8 + len(key) + 4 + 8 + len(template)) % 32
    template = template.encode() + b"{#" + b" " * (room - 4) + b"#}" if room >= 4 else None
    assert template is not None, "pad the template by hand"
    value = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(template)) + template
    assert len(value) % 32 == 0
    pathlib.Path(to).write_bytes(struct.pack("<IIQQ", magic, version, n_tensors, n_values + 1) + value + raw[24:])
    return to


def finish():
    FOLDER.cleanup()
    print(f"{len(failures)} checks failed" if failures else "all as expected")
    sys.exit(bool(failures))
