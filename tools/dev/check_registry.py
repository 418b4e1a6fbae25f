#!/usr/bin/env python3
"""Every row of src/kernel/kernels.def has its parts, and every kernel file has a row.

A row needs shaders/<stem>.comp, cl/<stem>.cl, the definition of ref_<stem> in src/kernel/ref, and the case generator
kept_gen_<stem> in src/tune. A deliberate gap is written in the row's purpose: "(opencl: none, needs …)".
"""
import re
import sys
from pathlib import Path

# KEPT_KERNEL(ID, stem, FORMATS, params, KEPT_BINDS(…), KEPT_KEYS(…), TOLERANCE, "purpose")
ROW = re.compile(
    r"^KEPT_KERNEL\(\s*(\w+),\s*(\w+),\s*(\w+),\s*(\w+),\s*KEPT_BINDS\(([^)]*)\),\s*"
    r"KEPT_KEYS\(([^)]*)\),\s*(\w+),\s*((?:\"[^\"]*\"\s*)+)\)", re.M)
COMMENT = re.compile(r"/\*.*?\*/", re.S)
GAP = re.compile(r"\((vulkan|opencl): none, [^)]+\)")


def rows(root):
    text = COMMENT.sub("", (root / "src/kernel/kernels.def").read_text())
    found = [match.groups() for match in ROW.finditer(text)]
    n_rows = len(re.findall(r"^KEPT_KERNEL\(", text, re.M))
    return found, n_rows


def sources(root, folder):
    return "\n".join(COMMENT.sub("", p.read_text()) for p in sorted((root / folder).rglob("*.c")))


def defines(text, name):
    return re.search(rf"^void {name}\([^;{{]*\)\s*\{{", text, re.M) is not None


def check_row(root, row, texts, errors):
    ident, stem, _, params, binds, keys, _, purpose = row
    gaps = {match.group(1) for match in GAP.finditer(purpose)}

    def complain(what):
        errors.append(f"kernels.def: row {ident}: {what}")

    if ident != stem.upper():
        complain(f"the id should be {stem.upper()}")
    for api, path in (("vulkan", f"shaders/{stem}.comp"), ("opencl", f"cl/{stem}.cl")):
        exists = (root / path).exists()
        if not exists and api not in gaps:
            complain(f'{path} is missing (a deliberate gap is written in the purpose: "({api}: none, …)")')
        if exists and api in gaps:
            complain(f"{path} exists although the purpose says that there is none")
    if (root / f"cl/{stem}.cl").exists():
        text = COMMENT.sub("", (root / f"cl/{stem}.cl").read_text())
        if not re.search(rf"\b{stem}\s*\(", text):
            complain(f"cl/{stem}.cl does not define a kernel named {stem}")
    if not defines(texts["ref"], f"ref_{stem}"):
        complain(f"ref_{stem} is not defined in src/kernel/ref")
    for part in ("gen", "bound", "keys"):
        if not defines(texts["tune"], f"kept_{part}_{stem}"):
            complain(f"kept_{part}_{stem} (the checker's cases) is not defined in src/tune")
    if f"struct kept_{params}_params" not in texts["params"]:
        complain(f"struct kept_{params}_params is not in params.h")
    if not keys.strip().startswith('"WG"'):
        complain("key 0 must be WG")
    if len(binds.split(",")) // 2 > 12 or len(keys.split(",")) // 2 > 9:
        complain("more than 12 bindings or 9 keys")


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    found, n_rows = rows(root)
    errors = []
    if n_rows == 0 or n_rows != len(found):
        errors.append(f"kernels.def: {n_rows} rows, {len(found)} of them readable by this script")
    texts = {
        "ref": sources(root, "src/kernel/ref"),
        "tune": sources(root, "src/tune"),
        "params": (root / "src/kernel/params.h").read_text(),
    }
    for row in found:
        check_row(root, row, texts, errors)
    stems = {row[1] for row in found}
    for pattern in ("shaders/*.comp", "cl/*.cl"):
        for path in sorted(root.glob(pattern)):
            if path.stem not in stems:
                errors.append(f"{path.relative_to(root)}: no row in kernels.def")
    print("\n".join(errors) if errors else f"registry: {len(found)} rows are complete")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
