"""The weights of open_clip that the base model has: downloaded unless they are there, and verified.

The output says what was verified. A study that trains its base model itself needs no weights.
"""

from collections.abc import Mapping
from importlib import import_module

from stages.command import BASE_WEIGHTS, stage
from zsr import files
from zsr.models.pretrained import Pretrained
from zsr.params import block, build

LOADING = "zsr.models.base_weights"  # not in the digest: a verified file is the same, whatever code got it


@stage("download_base", beside=[LOADING])
def main(document: Mapping, code: str) -> None:
    recipe, manifest = block(document, "base_model", dict), {"backend": "trained here"}
    if "pretrained" in recipe:
        weights = build(Pretrained, recipe, "base_model")
        path = import_module(LOADING).found(block(document, "model.arch", str), weights)
        manifest = {"backend": "file" if recipe.get("file") else "hub", "pretrained": recipe["pretrained"]}
        manifest |= {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
    files.write_json(BASE_WEIGHTS, manifest)


if __name__ == "__main__":
    main()
