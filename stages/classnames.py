"""Write zsr/data/classnames anew: what follows from a rule, the lemmas of timm and the names of open_clip."""

from dataclasses import replace

import click

from zsr.cli.running import OneLine
from zsr.data import prompts, registry
from zsr.files import write_atomic


@click.command(cls=OneLine)
@click.argument("sets", nargs=-1)
def main(sets: tuple[str, ...]) -> None:
    """Write the files of SETS, or all, from their raw keys and clean names, which alone are edited by hand."""
    for name in sets or registry.entries():
        key = registry.entry(name).key
        path = prompts.FOLDER / f"{key}.tsv"
        head, old_rows = prompts.stored(path)
        new_rows = prompts.regenerated(key, with_wordnet(old_rows) if key in prompts.WORDNET else old_rows)
        write_atomic(path, prompts.text(head, new_rows).encode())
        click.echo(f"{path}: {'unchanged' if new_rows == old_rows else 'changed'}")


def with_wordnet(rows: tuple[prompts.ClassRow, ...]) -> list[prompts.ClassRow]:
    """Add lemmas and open_clip names to the rows by wnid. timm and open_clip list ImageNet in sorted order of wnids."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    lemmas = info.label_descriptions(detailed=False, as_dict=True)
    names = dict(zip(info.label_names(), IMAGENET_CLASSNAMES))
    return [replace(row, lemmas=lemmas[row.raw_key], name_openclip=names[row.raw_key]) for row in rows]


if __name__ == "__main__":
    main()
