"""The library as its users get it: installed, found by pkg-config, and the example built against it and run.

    test_example.py BUILD SOURCE
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

build, source = map(pathlib.Path, sys.argv[1:3])
if not shutil.which("pkg-config") or not shutil.which("cc"):
    print("skipped: pkg-config or cc is missing")
    sys.exit(77)


def run(*args, **more):
    p = subprocess.run([*map(str, args)], capture_output=True, text=True, errors="replace", **more)
    if p.returncode:
        sys.exit(f"{args}: exit code {p.returncode}\n{p.stdout}{p.stderr}")
    return p.stdout


with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    run("meson", "install", "-C", build, "--no-rebuild", "--quiet", env={**os.environ, "DESTDIR": folder})
    pc = next(root.rglob("kept.pc"))
    env = {**os.environ, "PKG_CONFIG_PATH": str(pc.parent), "PKG_CONFIG_SYSROOT_DIR": folder}
    flags = run("pkg-config", "--cflags", "--libs", "kept", env=env).split()
    example = source / "examples" / "hello.c"
    assert len(example.read_text().splitlines()) < 60, "the example is under 60 lines"
    run(os.environ.get("CC", "cc"), "-std=c11", "-Wall", "-Wextra", "-Werror", example, *flags, "-o", root / "hello")
    library = next(root.rglob("libkept.so")).parent
    env = {**os.environ, "LD_LIBRARY_PATH": f"{library}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
    model = source / "tests" / "golden" / "tiny-llama-k.gguf"
    answer = run(root / "hello", model, "The quick brown fox", "cpu", env=env)
    assert len(answer) > 1, "the example answers"
    p = subprocess.run([root / "hello", source / "meson.build", "x", "cpu"], capture_output=True, text=True, env=env)
    assert p.returncode == 1 and "meson.build" in p.stderr, "the example says what is wrong"
print("installed, found, built, answered")
