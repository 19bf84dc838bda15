"""The sets of a study, and the number of images of each set."""

from dataclasses import dataclass
from typing import Literal

from zsr.params import Images, ImagesOrNone, Pixels, Seed, Template, shown

Missing = Literal["fail", "skip"]
Resolution = Literal["tower", "native"]
PromptSet = Literal["official", "clean", "openclip"]


@dataclass(frozen=True, kw_only=True)
class SetSize:
    """The number of images of a set that are used.

    Attributes:
        train: number of images of the training split; 0: the set has no training split.
        test: number of images of the test split.
        if_missing: what happens where the set's files cannot be had: "fail" stops the study, "skip" leaves the set out.
    """

    train: ImagesOrNone
    test: Images
    if_missing: Missing = "fail"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are used."""
        return tuple(split for split in ("train", "test") if getattr(self, split))


@dataclass(frozen=True, kw_only=True)
class Data:
    """The block `data` of params.yaml.

    Attributes:
        seed: the seed of drawn images, and of the choice of images.
        image_size: side of the images, in pixels.
        attack_resolution: the resolution at which the small images of public sets are attacked: "tower" resizes them to
            the tower's input size before the attack, "native" leaves them at the size they have on disk.
        template: the template of every prompt; {} is replaced by the class name with its article.
        prompt_set: the prompts of public sets, which come with prompts.
        complete: must every image of a public set be there? False: the images that are there suffice.
        source: the one set that methods are fine-tuned on.
        start_source: the one set that the rows of `starts` are trained on.
        controls: sets that are too easy to test robustness. The strict average leaves them out.
        sets: the size of each set, by name, in the order of the tables.
    """

    seed: Seed
    image_size: Pixels
    attack_resolution: Resolution
    template: Template
    prompt_set: PromptSet
    complete: bool
    source: str
    start_source: str
    controls: tuple[str, ...]
    sets: dict[str, SetSize]

    def __post_init__(self) -> None:
        named = {"source": [self.source], "start_source": [self.start_source], "controls": self.controls}
        for key, names in named.items():
            for name in names:
                if name not in self.sets:
                    raise ValueError(f"{key} must name one of sets ({', '.join(self.sets)}), got {shown(name)}")
        for key in ("source", "start_source"):
            name = getattr(self, key)
            if not self.sets[name].train:
                raise ValueError(f"the {key} '{name}' needs a training split: sets.{name}.train is 0")
            if self.sets[name].if_missing == "skip":
                raise ValueError(f"the {key} '{name}' cannot be left out: sets.{name}.if_missing must be fail")

    def groups(self) -> dict[str, list[str]]:
        """The groups of sets that tables average over: name of the group -> names of the sets."""
        unseen = [name for name in self.sets if name != self.source]
        groups = {"all": list(self.sets), "source": [self.source], "unseen": unseen}
        if self.controls:
            groups["unseen_strict"] = [name for name in unseen if name not in self.controls]
        return groups
