#!/usr/bin/env python3
"""Turns OpenCL C files into one C file of byte arrays (struct ocl_source, backend/opencl/ocl.h).

    embed_cl.py [--depfile FILE] [--include FOLDER]... OUTPUT INPUT...

Drivers compile from memory and have no include paths, so every #include "..." is replaced by the file's text, once per
kernel. #include <...> stays: params.h has one for C, in a branch that OpenCL C does not take.
"""
import argparse
import pathlib
import re

INCLUDE = re.compile(r'\s*#\s*include\s+"([^"]+)"')


def find(name, beside, folders):
    for folder in [beside, *folders]:
        path = folder / name
        if path.is_file():
            return path.resolve()
    raise SystemExit(f'embed_cl.py: {name} is in none of the include folders')


def flatten(path, folders, seen):
    """The lines of a file with its includes in place; seen collects the files."""
    lines = []
    for line in path.read_text(encoding='utf-8').splitlines():
        match = INCLUDE.match(line)
        if match is None:
            lines.append(line)
            continue
        inner = find(match.group(1), path.parent, folders)
        if inner not in seen:
            seen.append(inner)
            lines += flatten(inner, folders, seen)
    return lines


def array(name, data):
    rows = [', '.join(str(byte) for byte in data[i:i + 24]) for i in range(0, len(data), 24)]
    return f'static const char {name}[] = {{\n' + ',\n'.join(rows) + '};\n'


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--depfile')
    parser.add_argument('--include', action='append', default=[])
    parser.add_argument('output')
    parser.add_argument('inputs', nargs='+')
    args = parser.parse_args()
    folders = [pathlib.Path(folder) for folder in args.include]

    parts, table, files = [], [], []
    for name in args.inputs:
        path = pathlib.Path(name).resolve()
        seen = [path]
        # Comments may be UTF-8; some drivers' lexers are not, so anything else becomes '?'.
        text = '\n'.join(flatten(path, folders, seen)) + '\n'
        parts.append(array(path.stem, text.encode('ascii', 'replace')))
        table.append(f'    {{"{path.stem}", {path.stem}, sizeof {path.stem}}},')
        files += seen
    with open(args.output, 'w', encoding='ascii') as out:
        out.write('/* Made by tools/dev/embed_cl.py from cl/. */\n#include "backend/opencl/ocl.h"\n\n')
        out.write('\n'.join(parts))
        out.write('\nconst struct ocl_source ocl_sources[] = {\n' + '\n'.join(table) + '\n};\n')
        out.write('const size_t ocl_n_sources = sizeof ocl_sources / sizeof *ocl_sources;\n')
    if args.depfile:
        escaped = ' '.join(str(file).replace(' ', '\\ ') for file in sorted(set(files)))
        pathlib.Path(args.depfile).write_text(f'{args.output}: {escaped}\n')


if __name__ == '__main__':
    main()
