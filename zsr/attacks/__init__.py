"""Attacks on classifiers of pixels. An attack is called with a model, images (N, 3, H, W) in [0, 1] and labels (N,)."""

from importlib import import_module
from typing import Any

_MODULES = {
    "APGD": "apgd",
    "AutoAttack": "autoattack",
    "CW": "cw",
    "Clean": "clean",
    "FAB": "fab",
    "PGD": "pgd",
    "Square": "square",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"zsr.attacks.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'zsr.attacks' has no attribute '{name}'")


def __dir__() -> list[str]:
    return list(_MODULES)
