"""CUDA kernels on the processor: compiled by the C++ compiler, a fiber for each thread of a block.

Fibers run one after the other from barrier to barrier, in order or in reverse; shared memory holds
NaN before. So a barrier that is missing, or memory that nobody wrote, shows in the results.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin

COMPILER = shutil.which("g++")


def need_compiler() -> None:
    """Skip a test without a compiler; fail it in continuous integration, where nobody would see."""
    if COMPILER is None:
        told = "no C++ compiler (g++) to emulate the kernel with"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)


PRELUDE = r"""
#include <math.h>
#include <string.h>
#include <stdlib.h>
#include <ucontext.h>
struct float4 { float x, y, z, w; };
static struct { int x; } threadIdx, blockIdx;
static ucontext_t scheduler, fibers[256];
static void barrier() {
    int own = threadIdx.x;
    swapcontext(&fibers[own], &scheduler);
    threadIdx.x = own;
}
static float widen(unsigned short bits) { _Float16 h; memcpy(&h, &bits, 2); return (float)h; }
static float widen(float value) { return value; }
#define __global__
#define __shared__
#define __restrict__
#define __launch_bounds__(n)
#define __syncthreads() barrier()
"""

EPILOGUE = r"""
alignas(16) float4 memory[1 << 14];
static void** arguments;
static bool over[THREADS];
static void run(int own) {
    threadIdx.x = own;
    score_rows((const Stored*)arguments[0], (const double*)arguments[1],
        (const double*)arguments[2], (const float*)arguments[3], *(long long*)arguments[4],
        *(float*)arguments[5], (double*)arguments[6]);
    over[own] = true;
}
extern "C" void launch(int n_blocks, int shared, int reverse, void** given) {
    static char* stacks = (char*)malloc((size_t)THREADS << 16);
    arguments = given;
    for (blockIdx.x = 0; blockIdx.x < n_blocks; ++blockIdx.x) {
        memset(memory, 0xff, shared);
        for (int i = 0; i < THREADS; ++i) {
            over[i] = false;
            getcontext(&fibers[i]);
            fibers[i].uc_stack.ss_sp = stacks + ((size_t)i << 16);
            fibers[i].uc_stack.ss_size = 1 << 16;
            fibers[i].uc_link = &scheduler;
            makecontext(&fibers[i], (void (*)())run, 1, i);
        }
        for (bool working = true; working;) {
            working = false;
            for (int i = 0; i < THREADS; ++i) {
                int own = reverse ? THREADS - 1 - i : i;
                if (over[own]) continue;
                swapcontext(&scheduler, &fibers[own]);
                working = true;
            }
        }
    }
}
"""


@cache
def _library(code: str, options: tuple[str, ...]) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
        source.write_text(PRELUDE + code + EPILOGUE)
        command = [str(COMPILER), "-O2", "-shared", "-fPIC", *options, str(source), "-o", target]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(target))


class RawModule:
    """As CuPy's, for kernels with the arguments of ``score_rows``."""

    reverse = False
    launches = 0

    def __init__(self, code: str, options: tuple[str, ...]):
        self.library = _library(code, options)

    def get_function(self, name: str) -> RawModule:
        assert name == "score_rows"
        return self

    def __call__(self, grid: Any, block: Any, args: Any, shared_mem: int) -> None:
        assert block == (256,)
        assert shared_mem <= self.max_dynamic_shared_size_bytes  # type: ignore[attr-defined]
        RawModule.launches += 1
        held = []
        for arg in args:
            if isinstance(arg, standin.ndarray):
                assert arg.inner.flags.c_contiguous
                held.append(ctypes.c_void_p(arg.inner.ctypes.data))
            else:
                one = np.array(arg)
                held.append(ctypes.c_void_p(one.ctypes.data))
                held[-1].one = one  # type: ignore[attr-defined]
        pointers = (ctypes.c_void_p * len(held))(*held)
        self.library.launch(grid[0], shared_mem, int(self.reverse), pointers)
