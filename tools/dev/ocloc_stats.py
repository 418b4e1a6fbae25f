#!/usr/bin/env python3
"""Compiles OpenCL kernels for Intel GPUs with ocloc and prints SIMD width, spills, local memory and size as a table.

    ocloc_stats.py [STEM]      needs ocloc on PATH (Debian 12: package intel-opencl-icd); no GPU is needed
"""
import pathlib
import re
import subprocess
import sys
import tempfile

import embed_cl

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEVICES = ['skl', 'tgllp', 'acm-g10']
FORMATS = {'Q4_0': 3, 'Q4_K': 8, 'Q6_K': 10, 'f16': 0}
ROWS = [
    ('matvec', 'Q4_0', 'WG=64 NC=1 TR=1'), ('matvec', 'Q4_0', 'WG=64 NC=8 TR=1'),
    ('matvec', 'Q4_0', 'WG=64 NC=1 TR=1 EPI=2'), ('matvec', 'Q4_K', 'WG=64 NC=1 TR=1'),
    ('matvec', 'Q4_K', 'WG=64 NC=8 TR=1'), ('matvec', 'Q6_K', 'WG=64 NC=1 TR=1'),
    ('matmat', 'Q4_K', 'WG=128 BM=64 BN=64'), ('matmat', 'Q4_K', 'WG=256 BM=64 BN=64'),
    ('matmat', 'Q4_K', 'WG=128 BM=32 BN=64 EPI=2'), ('matmat', 'Q4_K', 'WG=128 BM=64 BN=64 EPI=2'),
    ('matmat', 'Q4_K', 'WG=256 BM=64 BN=64 EPI=2'),
    ('attn_decode', 'f16', 'WG=64 D=64 G=1'), ('attn_decode', 'f16', 'WG=64 D=64 G=3'),
    ('attn_decode', 'f16', 'WG=64 D=64 G=8'), ('attn_decode', 'f16', 'WG=64 D=128 G=8'),
    ('attn_decode', 'f16', 'WG=64 D=256 G=4'), ('attn_prefill', 'f16', 'WG=64 D=64 G=3 BQ=4'),
    ('attn_prefill', 'f16', 'WG=64 D=64 G=3 BQ=8'),
]


def field(text, name):
    match = re.search(name + r': +(\d+)', text)
    return int(match.group(1)) if match else 0


def compiled(folder, stem, fmt, keys, device):
    """(SIMD width, bytes of scratch, local memory, code in units of 16 bytes) of one kernel."""
    options = ['-cl-std=CL1.2', '-DORDER=0', f'-DKEPT_FMT={FORMATS[fmt]}']
    options += ['-D' + key for key in keys.split()]
    run = lambda *args: subprocess.run(['ocloc', *args], cwd=folder, check=True, capture_output=True)
    run('compile', '-file', stem + '.cl', '-device', device, '-output', 'out', '-options',
        ' '.join(options), '-internal_options', '-cl-intel-allow-zebin')
    binary = next(folder.glob('out_*.bin'))
    (folder / 'parts').mkdir()
    run('disasm', '-file', binary.name, '-dump', 'parts', '-device', device)
    info = (folder / 'parts/.ze_info').read_text()
    buffers = info.split('per_thread_memory_buffers:')[1:]
    scratch = sum(int(size) for size in re.findall(r'size: +(\d+)', buffers[0])) if buffers else 0
    size = (folder / f'parts/.text.{stem}').stat().st_size
    return field(info, 'simd_size'), scratch, field(info, 'slm_size'), size // 16


def main():
    folders = [ROOT / 'cl', ROOT / 'src']
    for stem, fmt, keys in ROWS:
        if len(sys.argv) > 1 and sys.argv[1] not in stem:
            continue
        cells, local_bytes = [], 0
        for device in DEVICES:
            with tempfile.TemporaryDirectory() as name:
                folder, path = pathlib.Path(name), ROOT / 'cl' / (stem + '.cl')
                lines = embed_cl.flatten(path, folders, [path])
                (folder / (stem + '.cl')).write_text('\n'.join(lines) + '\n')
                simd, scratch, local, size = compiled(folder, stem, fmt, keys, device)
            cells.append(f'{simd} / {scratch} / {size}')
            local_bytes = max(local_bytes, local)
        print(f'| {stem} | {fmt} | {keys.replace("=", " ")} | {local_bytes} |', ' | '.join(cells), '|')


if __name__ == '__main__':
    main()
