"""Let processors round alike, so that one study gives the same bytes on all of them.

A sum of rounded numbers depends on the order of its terms, and libraries add in the order that suits the vectors of a
processor. With AVX-512 a training drifts away from one with AVX2 within some steps.
"""

import os
from pathlib import Path

OF_AVX2 = {  # what PyTorch, oneDNN, MKL and the OpenBLAS of NumPy read when they are loaded
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
WITHOUT_AVX512 = {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512F AVX512CD AVX512_SKX AVX512_ICL AVX512_SPR"}  # of NumPy
PROCESSORS = Path("/proc/cpuinfo")


def variables() -> dict[str, str]:
    """Variables for the environment of a process that has not loaded torch, so that it computes as with AVX2.

    There are none for a processor without AVX2, and on other systems than Linux. A variable that is set already keeps
    its value.
    """
    flags = _flags()
    if "avx2" not in flags:
        return {}
    wanted = OF_AVX2 | (WITHOUT_AVX512 if "avx512f" in flags else {})  # NumPy warns where there is nothing to disable
    return {name: value for name, value in wanted.items() if name not in os.environ}


def _flags() -> list[str]:
    """What the processor can do, in the words of Linux; nothing where the words are not known."""
    try:
        with PROCESSORS.open(encoding="utf-8", errors="replace") as lines:
            return next((line.split() for line in lines if line.startswith("flags")), [])
    except OSError:
        return []
