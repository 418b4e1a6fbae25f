#!/usr/bin/env python3
"""Limits on size and on what may be called; hard limits fail, soft ones are printed with --soft.

                      soft  hard
    source file        600  1000    lines      (headers 300/500, kernels 250/400, scripts as sources)
    function            60   150    lines
    parameters           6     8
    nesting              3     5    levels of blocks in a function (4 is meant, 5 fails)
    line                80   100    columns

Banned in src/ outside base/: the malloc family, the printf family, getenv, exit, abort, strcpy, strcat, atoi, strtok.
getenv stands in src/base/env.c alone. Words for unfinished work are banned everywhere.
"""
import re
import sys
from pathlib import Path

LINES = {".c": (600, 1000), ".h": (300, 500), ".py": (600, 1000), ".comp": (250, 400), ".cl": (250, 400),
         ".glsl": (250, 400), ".clh": (250, 400), ".inc": (250, 400), ".def": (600, 1000)}
FOLDERS = ("src", "include", "tools", "tests", "shaders", "cl")
SCRIPT_WIDTH = 120
# Tables and generated or foreign text: path prefix -> which rules do not apply.
EXEMPT = {
    "tests/golden/data/": {"lines", "width"},
    "tests/golden/chat.py": {"width"},  # templates, one a line
    "tests/fuzz/corpus/": {"lines", "width"},
    "tests/unit/data/": {"lines", "width"},
    "src/tune/tables/": {"lines", "width"},
    "src/formats/unicode_table": {"lines"},
}
BANNED = re.compile(
    r"(?<![\w.>])(malloc|calloc|realloc|reallocarray|free|aligned_alloc|posix_memalign|strdup|strndup|alloca|"
    r"printf|fprintf|sprintf|snprintf|vprintf|vfprintf|vsprintf|vsnprintf|dprintf|asprintf|vasprintf|puts|putchar|"
    r"fputs|perror|strcpy|strcat|strncpy|strncat|gets|getenv|secure_getenv|setenv|exit|_exit|_Exit|quick_exit|abort|"
    r"atoi|atol|atoll|atof|strtok|strtok_r|system|popen)\s*\(")
UNFINISHED = re.compile("|".join([r"\bTO" r"DO\b", r"\bFIX" r"ME\b", r"\bX" r"XX\b", r"\bHA" r"CK\b",
                                  r"(?i:\bplace" r"holder\b)", r"(?i:\bfor n" r"ow\b)",
                                  r"(?i:\bnot (yet )?imple" r"mented\b)"]))
CONTROL = {"if", "for", "while", "switch", "return", "sizeof", "do", "else", "defined", "_Static_assert",
           "static_assert", "__attribute__"}


def blank(match):
    return re.sub(r"[^\n]", " ", match.group(0))


def code_only(text):
    """The text with comments, strings and character constants blanked; line numbers stay."""
    token = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return token.sub(blank, text)


def without_directives(code):
    """Preprocessor lines, with their continuations, blanked; both arms of an #if stay."""
    out, inside = [], False
    for line in code.split("\n"):
        starts = inside or line.lstrip().startswith("#")
        inside = starts and line.rstrip().endswith("\\")
        out.append("" if starts else line)
    return "\n".join(out)


def n_params(text):
    text = text.strip()
    if text in ("", "void"):
        return 0
    depth = count = 0
    for char in text:
        depth += char in "([{"
        depth -= char in ")]}"
        count += char == "," and depth == 0
    return count + 1


# The head of a function at file scope: a name, its parameters (which may hold function pointers), and a brace.
PARAMS = r"((?:[^(){};]|\((?:[^(){};]|\([^(){};]*\))*\))*)"
HEAD = re.compile(r"(?:^|\n)(?![ \t}])([^\n;={}#][^;={}]*?\b(\w+)\s*\(" + PARAMS + r"\)\s*)\n?\{")


def functions(code):
    """(name, first line, lines, parameters, deepest nesting) of each function."""
    for head in HEAD.finditer(code):
        if head.group(2) in CONTROL:
            continue
        depth = deepest = 0
        parens = 0
        at = head.end() - 1
        initialisers = []
        for at in range(head.end() - 1, len(code)):
            char = code[at]
            if char in "()":
                parens += 1 if char == "(" else -1
            elif char == "{":
                before = code[max(0, at - 80):at].rstrip()
                is_data = parens > 0 or before.endswith(("=", ",", "{", "]", "return")) or bool(initialisers)
                if is_data and depth > 0:
                    initialisers.append(at)
                else:
                    depth += 1
                    deepest = max(deepest, depth - 1)
            elif char == "}":
                if initialisers:
                    initialisers.pop()
                else:
                    depth -= 1
                    if depth == 0:
                        break
        first = code.count("\n", 0, head.start(2)) + 1
        last = code.count("\n", 0, at) + 1
        yield head.group(2), first, last - first + 1, n_params(head.group(3)), deepest


class Report:
    def __init__(self):
        self.hard, self.soft, self.n_files = [], [], 0

    def limit(self, where, what, value, limits):
        if value > limits[1]:
            self.hard.append(f"{where}: {what}: {value}, the limit is {limits[1]}")
        elif value > limits[0]:
            self.soft.append(f"{where}: {what}: {value}, {limits[0]} is preferred")


def exemptions(relative):
    found = set()
    for prefix, rules in EXEMPT.items():
        if relative.startswith(prefix):
            found |= rules
    return found


def check_calls(relative, code, report):
    if not relative.startswith("src/"):
        return
    in_base = relative.startswith("src/base/")
    for number, line in enumerate(code.split("\n"), 1):
        for call in BANNED.finditer(line):
            name = call.group(1)
            if in_base and (name != "getenv" or relative == "src/base/env.c"):
                continue
            report.hard.append(f"{relative}:{number}: {name} is banned here (src/base has the library's own)")


def check_text(relative, text, report, free):
    width = SCRIPT_WIDTH if relative.endswith(".py") else 100
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{relative}:{number}"
        if "width" not in free and len(line) > width:
            report.hard.append(f"{where}: {len(line)} columns, the limit is {width}")
        if "width" not in free and line != line.rstrip():
            report.hard.append(f"{where}: space at the end of the line")
        if "\t" in line:
            report.hard.append(f"{where}: a tab")
        if UNFINISHED.search(line):
            report.hard.append(f"{where}: unfinished: {line.strip()}")
    if text and not text.endswith("\n"):
        report.hard.append(f"{relative}: no newline at the end")


def check_file(root, path, report):
    relative = path.relative_to(root).as_posix()
    free = exemptions(relative)
    text = path.read_text()
    report.n_files += 1
    check_text(relative, text, report, free)
    if "lines" not in free:
        report.limit(relative, "lines", text.count("\n"), LINES[path.suffix])
    if path.suffix == ".py":
        return
    code = code_only(text)
    check_calls(relative, code, report)
    if path.suffix not in (".c", ".h", ".comp", ".cl", ".glsl", ".clh"):
        return
    for name, first, lines, params, nesting in functions(without_directives(code)):
        where = f"{relative}:{first}: {name}"
        report.limit(where, "lines of a function", lines, (60, 150))
        if path.suffix != ".cl" or "kernel" not in code.split("\n")[first - 1]:
            report.limit(where, "parameters", params, (6, 8))
        report.limit(where, "levels of nesting", nesting, (3, 5))


def main():
    arguments = [a for a in sys.argv[1:] if a != "--soft"]
    root = Path(arguments[0] if arguments else ".").resolve()
    report = Report()
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in LINES and path.is_file():
                check_file(root, path, report)
    if "--soft" in sys.argv:
        print("\n".join(report.soft))
    print("\n".join(report.hard) if report.hard
          else f"limits: {report.n_files} files keep to them, {len(report.soft)} notes (--soft)")
    return 1 if report.hard or report.n_files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
