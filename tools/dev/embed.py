#!/usr/bin/env python3
"""Turns files of bytes into C: embed.py OUT FILE...

Each FILE is named STEM.NUMBER.EXT and holds 32-bit words. OUT gets one array a file and, last, a list macro:
    static const uint32_t STEM_NUMBER[] = {...};
    #define EMBEDDED_LIST(X) X("STEM", NUMBER, STEM_NUMBER) ...
"""
import array
import os
import sys


def main(out, paths):
    entries = []
    with open(out, "w") as f:
        f.write("/* Made by tools/dev/embed.py. */\n")
        for path in paths:
            stem, number = os.path.basename(path).split(".")[:2]
            words = array.array("I")
            with open(path, "rb") as data:
                words.frombytes(data.read())
            f.write(f"static const uint32_t {stem}_{number}[] = {{\n")
            for i in range(0, len(words), 12):
                f.write(",".join(f"0x{w:x}" for w in words[i:i + 12]) + ",\n")
            f.write("};\n")
            entries.append(f'X("{stem}", {number}, {stem}_{number})')
        f.write("#define EMBEDDED_LIST(X) " + " ".join(entries) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
