"""The ablation of TGA-ZSR and the effects of quirks, from the records of all variants."""

from pathlib import Path

import click

from stages.command import EXISTING, WRITTEN, stage
from zsr import ablation, audit, results, tables
from zsr.data.world import Data
from zsr.params import block, read
from zsr.records import Record


@stage
@click.option("--variants", type=EXISTING, required=True)
@click.option("--records", type=EXISTING, required=True)
@click.option("--out", type=WRITTEN, required=True)
def main(params: Path, variants: Path, records: Path, out: Path) -> None:
    wanted, data = ablation.load(variants), block(read(params), "data", Data)
    loaded = {
        (name, wanted.attack, set_name): [
            Record.load(records / name / str(seed) / f"{set_name}.json") for seed in wanted.seeds
        ]
        for name in wanted.variants
        for set_name in data.sets
    }
    loaded = results.with_clean(loaded)
    groups = {group: names for group, names in data.groups().items() if group in ("all", "unseen_strict")}
    facts = (
        f"{len(wanted.seeds)} fine-tuning seeds on one base model, the first {wanted.images} images of each test set"
    )
    plain = {key: cell for key, cell in loaded.items() if not wanted.variants[key[0]].quirk}
    quirks = {name: (v.quirk, v.against) for name, v in wanted.variants.items() if v.quirk}
    marks = audit.mark_rows(audit.marks(loaded))
    tables.ablation(out, results.variant_rows(plain, groups), facts, marks)
    tables.quirks(out, results.effect_rows(loaded, quirks, list(data.sets)), facts, marks)


if __name__ == "__main__":
    main()
