"""Which sets the study has, and how many images of each."""

from dataclasses import dataclass
from typing import Literal

from zsr.params import Count, Natural, Template

Resolution = Literal["tower", "native"]
PromptSet = Literal["official", "clean", "openclip"]


@dataclass(frozen=True, kw_only=True)
class SetSize:
    train: Natural  # 0: no training split
    test: Count


@dataclass(frozen=True, kw_only=True)
class Data:
    seed: Natural
    image_size: Count
    attack_resolution: (
        Resolution  # of the public sets of small images: the tower's size before the attack, or their own
    )
    template: Template  # of every prompt; {} is the class name with its article
    prompt_set: PromptSet  # of public sets, which have prompts of their own
    complete: bool  # must every image of a public set be there? false: what is there will do
    source: str  # the one set that methods are fine-tuned on
    start_source: str  # the one set that the rows of `starts` are trained on
    controls: tuple[str, ...]  # sets too easy to tell anything of robustness; left out of the strict average
    sets: dict[str, SetSize]  # name -> size; the order of the tables

    def __post_init__(self):
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
