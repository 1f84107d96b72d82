"""A disk whose every sync takes longer: a small library in C, loaded before all others."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.harness import children, disk_ms, scratch

SLOWER_MS = 5
_NEEDS = "a C compiler (cc, gcc or clang) on Linux"
_PRELOAD, _SLOWER_US = "LD_PRELOAD", "BENCHMARK_SYNC_SLOWER_US"
_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

static int slower(const char *name, int file) {
    int (*real)(int) = (int (*)(int)) dlsym(RTLD_NEXT, name);
    int answer = real(file), error = errno;
    const char *us = getenv("BENCHMARK_SYNC_SLOWER_US");
    struct timespec pause = {0, us ? atol(us) * 1000 : 0};
    nanosleep(&pause, NULL);
    errno = error;
    return answer;
}

int fsync(int file) { return slower("fsync", file); }
int fdatasync(int file) { return slower("fdatasync", file); }
"""
MISSING = f"The rows with {SLOWER_MS} ms more a sync need {_NEEDS}: not measured."


@contextlib.contextmanager
def slow_child() -> Iterator[ProcessPoolExecutor | None]:
    """Run functions in another process, where each sync takes longer; None without a compiler.

    The processes that it starts are as slow.
    """
    with scratch() as folder, children() as pool:
        library = _compiled(folder)
        if library is None:
            yield None
            return
        preloaded = " ".join(filter(None, (str(library), os.environ.get(_PRELOAD))))
        with _environment({_PRELOAD: preloaded, _SLOWER_US: str(SLOWER_MS * 1_000)}):
            fastest_ms = min(pool.submit(disk_ms, folder, 5).result())  # the first call starts it
        if fastest_ms < SLOWER_MS:
            raise RuntimeError("the library that slows the disk was not loaded")
        yield pool


def _compiled(folder: Path) -> Path | None:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or not Path("/proc").exists():
        return None
    source, library = folder / "slower.c", folder / "slower.so"
    source.write_text(_SOURCE)
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], capture_output=True
    )
    return library if done.returncode == 0 else None


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
