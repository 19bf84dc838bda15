"""Measure the zero-shot adversarial robustness of vision-language models.

    import zsr

    clip = zsr.load("openai", arch="ViT-B-32-quickgelu")
    model = zsr.zero_shot(clip, ["a cat", "a dog"])
    print(zsr.evaluate(model, images, labels, attack="autoattack", eps=1 / 255))

The names are loaded when they are used, so `import zsr` takes no time.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {  # name -> the module that defines the name
    "Result": "zsr.evaluation.measure",
    "evaluate": "zsr.evaluation.measure",
    "load": "zsr.models.loading",
    "zero_shot": "zsr.models.loading",
}
_PACKAGES = ("attacks", "methods")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"zsr.{name}")
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'zsr' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*_PUBLIC, *_PACKAGES]
