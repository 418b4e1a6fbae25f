#!/usr/bin/env python3
"""Brings comment lines of more than 100 columns within the limit: wrap_comments.py FILE…

A long line carries its rest into the lines that go on with its sentence. A long comment after code moves to the line
before. Code is never touched (clang-format does that), nor are pictures: lines with two
or more spaces inside their text are left alone and named.
"""
import re
import sys
import textwrap
from pathlib import Path

WIDTH = 100
LINE = re.compile(r"^(\s*)(//\s*|/\*+\s*|\*\s+)(\S.*)$")
AFTER = re.compile(r"^(\s*)(\S.*?\S)\s+(/\*.*\*/|//.*)$")


def follow_of(indent, mark):
    """The mark of a continuation line."""
    return indent + (" * " if mark.startswith("/*") else mark)


def pieces(indent, mark, text):
    return textwrap.wrap(text, WIDTH, initial_indent=indent + mark, subsequent_indent=follow_of(indent, mark),
                         break_long_words=False, break_on_hyphens=False)


def joins(line, follow):
    """The text of a line that goes on with the sentence (it begins in lower case), or None."""
    text = line[len(follow):]
    plain = line.startswith(follow) and re.match(r"[a-z0-9(]", text)
    return text if plain and not re.search(r"\S {2,}\S", text) and text.strip() != "*/" else None


def wrap_paragraph(lines, at):
    """The comment that is too long at lines[at], its rest carried on; and how many lines that took."""
    indent, mark, text = LINE.match(lines[at]).groups()
    follow, taken = follow_of(indent, mark), 1
    out = pieces(indent, mark, text)
    while at + taken < len(lines) and "*/" not in text:
        more = joins(lines[at + taken], follow)
        if more is None:
            break
        last = out.pop()
        joined = last + " " + more
        out += [joined] if len(joined) <= WIDTH else textwrap.wrap(
            joined, WIDTH, subsequent_indent=follow, break_long_words=False, break_on_hyphens=False)
        text, taken = more, taken + 1
    return out, taken


def wrap_file(path):
    lines, out, left = path.read_text().split("\n"), [], []
    in_block, at = False, 0
    while at < len(lines):
        line, taken, fixed = lines[at], 1, None
        found = LINE.match(line) if len(line) > WIDTH else None
        after = AFTER.match(line) if len(line) > WIDTH and not in_block else None
        if found and (found.group(2)[0] == "/" or in_block):
            if not re.search(r"\S {2,}\S|-{8}", found.group(3)):
                fixed, taken = wrap_paragraph(lines, at)
        elif after and after.group(2)[-1] in ";,{":
            indent, code, comment = after.groups()
            fixed = pieces(*LINE.match(indent + comment).groups()) + [indent + code]
        if len(line) > WIDTH and fixed is None:
            left.append(f"{path}:{at + 1}: left alone: {line.strip()[:60]}")
        out += fixed or [line]
        for seen in lines[at:at + taken]:
            opened, closed = seen.rfind("/*"), seen.rfind("*/")
            if opened >= 0 or closed >= 0:
                in_block = opened > closed
        at += taken
    if out != lines:
        path.write_text("\n".join(out))
    return left


if __name__ == "__main__":
    for name in sys.argv[1:]:
        for note in wrap_file(Path(name)):
            print(note)
