#!/usr/bin/env python3
"""Who may include whom (docs/architecture.md): reads the #include lines of src, include, tools and tests.

    tools -> include/kept        core -> memory, tune, kernel, backend, formats, base
    memory, tune -> kernel, backend, base       backend/* -> kernel, base (never each other)
    formats -> kernel, base      kernel -> base             base -> nothing of ours

Private headers stay in their folder: of backend only backend.h is seen from outside.
"""
import re
import sys
from pathlib import Path

MAY = {
    "base": set(),
    "kernel": {"base"},
    "formats": {"kernel", "base"},
    "backend": {"kernel", "base"},
    "tune": {"backend", "kernel", "base"},
    "memory": {"backend", "kernel", "base"},
    "core": {"memory", "tune", "backend", "kernel", "formats", "base"},
}
OWN = ("kept",) + tuple(MAY)
# Headers of an API belong to its backend alone.
APIS = {
    "vulkan": re.compile(r"^(vulkan|volk|vk_)"),
    "opencl": re.compile(r"^CL/"),
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SUFFIXES = {".c", ".h", ".def", ".inc"}


def includes(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = INCLUDE.match(line)
        if found:
            yield number, found.group(1), found.group(2)


def backend_of(path):
    """The folder under backend/ that a path belongs to, or None."""
    parts = path.split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "backend" else None


def check_src(source, target):
    """Why src/<source> may not include <target>, or None."""
    layer, wanted = source.split("/")[0], target.split("/")[0]
    if wanted == "kept":
        return None
    if wanted != layer and wanted not in MAY[layer]:
        allowed = ", ".join(sorted(MAY[layer])) or "nothing"
        return f"{layer} may include {allowed} and itself, not {wanted}"
    if wanted != "backend":
        return None
    mine, theirs = backend_of(source), backend_of(target)
    if theirs is not None and mine != theirs:
        return f"private to backend/{theirs}"
    if layer != "backend" and target != "backend/backend.h":
        return "outside of backend/ only backend/backend.h is seen"
    if mine is not None and theirs is None and target != "backend/backend.h":
        return "a backend sees backend/backend.h and its own folder"
    return None


def check_api(source, target):
    for backend, pattern in APIS.items():
        if pattern.match(target) and backend_of(source) != backend:
            return f"headers of {backend} belong to src/backend/{backend}"
    return None


def check_file(root, path, errors):
    relative = path.relative_to(root).as_posix()
    for number, kind, target in includes(path):
        own = target.split("/")[0] in OWN and "/" in target
        beside = (path.parent / target).exists()
        why = None
        if relative.startswith("src/"):
            source = relative[4:]
            why = check_api(source, target)
            if why is None and own and not (beside and not (root / "src" / target).exists()):
                why = check_src(source, target)
            if why is None and kind == '"' and "/" not in target and path.suffix != ".def":
                if source.split("/")[0] != "base" and not target.endswith((".def", ".inc", "_data.h")):
                    why = 'name our headers from src: "folder/name.h"'
        elif relative.startswith("include/"):
            if kind == '"' and ("/" in target or not beside):
                why = "public headers include only their neighbours and the standard"
        elif relative.startswith("tools/"):
            if own and target.split("/")[0] != "kept":
                why = "tools use include/kept only"
        if why is not None:
            errors.append(f"{relative}:{number}: {target}: {why}")


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    errors, count = [], 0
    for folder in ("src", "include", "tools"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                check_file(root, path, errors)
                count += 1
    print("\n".join(errors) if errors else f"layers: {count} files keep to them")
    return 1 if errors or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
