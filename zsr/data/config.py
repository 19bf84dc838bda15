"""Which sets the study has, and how many images of each."""

from dataclasses import dataclass
from typing import Literal

from zsr.params import Count, Natural, Template

Resolution = Literal["tower", "native"]
PromptSet = Literal["official", "clean", "openclip"]


@dataclass(frozen=True, kw_only=True)
class SetSize:
    """How many images of a set are used.

    Attributes:
        train: images of the training split; 0: there is no such split.
        test: images of the test split.
    """

    train: Natural
    test: Count


@dataclass(frozen=True, kw_only=True)
class Data:
    """The block `data` of params.yaml.

    Attributes:
        seed: of what is drawn, and of which images are chosen.
        image_size: side of the images, in pixels.
        attack_resolution: of the public sets of small images: the tower's size before the attack, or their own.
        template: of every prompt; {} is the class name with its article.
        prompt_set: of public sets, which have prompts of their own.
        complete: must every image of a public set be there? False: what is there will do.
        source: the one set that methods are fine-tuned on.
        start_source: the one set that the rows of `starts` are trained on.
        controls: sets too easy to tell anything of robustness; left out of the strict average.
        sets: the size of each set, by name, in the order of the tables.
    """

    seed: Natural
    image_size: Count
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
                    raise ValueError(f"{key} must name one of sets ({', '.join(self.sets)}), got '{name}'")
        for key in ("source", "start_source"):
            name = getattr(self, key)
            if not self.sets[name].train:
                raise ValueError(f"the {key} '{name}' needs a training split: sets.{name}.train is 0")

    def groups(self) -> dict[str, list[str]]:
        """The averages that tables show: group -> its sets."""
        unseen = [name for name in self.sets if name != self.source]
        return {
            "all": list(self.sets),
            "source": [self.source],
            "unseen": unseen,
            "unseen_strict": [name for name in unseen if name not in self.controls],
        }
