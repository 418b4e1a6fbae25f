#!/usr/bin/env python3
"""Every header compiles alone: those of src and include/kept as C11, the public ones as C++17 too.

    check_headers.py ROOT C_COMPILER… [--cxx CXX_COMPILER…] [--flags FLAG…]

Headers that need an API (Vulkan, OpenCL) are skipped where its headers are not installed, and named.
"""
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Headers that are included into something and do not stand alone, with the reason.
NOT_ALONE = {}


def split(arguments):
    root, groups, current = Path(arguments[0]).resolve(), {"cc": [], "cxx": [], "flags": []}, "cc"
    for argument in arguments[1:]:
        if argument in ("--cxx", "--flags"):
            current = argument[2:]
        else:
            groups[current].append(argument)
    return root, groups


def compile_alone(job):
    command, name = job
    done = subprocess.run(command, input=f'#include "{name}"\n', text=True, capture_output=True)
    return name, command[-3], done.returncode, done.stderr.strip()


def missing_api(message):
    return any(f"{api}" in message and "No such file" in message for api in ("vulkan/", "volk.h", "CL/", "sqlite3.h"))


def main():
    root, groups = split(sys.argv[1:])
    warnings = ["-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    includes = [f"-I{root / 'include'}", f"-I{root / 'src'}", "-D_GNU_SOURCE"] + groups["flags"]
    jobs = []
    for base, folder in ((root / "src", "."), (root / "include", "kept")):
        for path in sorted((base / folder).rglob("*.h")):
            name = path.relative_to(base).as_posix()
            if name in NOT_ALONE:
                continue
            jobs.append((groups["cc"] + ["-std=c11"] + warnings + includes + ["-xc", "-"], name))
            if base.name == "include" and groups["cxx"]:
                jobs.append((groups["cxx"] + ["-std=c++17"] + warnings + includes + ["-xc++", "-"], name))
    errors, skipped = [], []
    with ThreadPoolExecutor(2) as pool:
        for name, _, code, message in pool.map(compile_alone, jobs):
            if code != 0 and missing_api(message):
                skipped.append(name)
            elif code != 0:
                errors.append(f"{name} does not compile alone:\n{message}")
    for name in skipped:
        print(f"skipped (no API headers here): {name}")
    print("\n".join(errors) if errors else f"headers: {len(jobs) - len(skipped)} compilations alone")
    return 1 if errors or not jobs else 0


if __name__ == "__main__":
    sys.exit(main())
