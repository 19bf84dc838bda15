"""Measure one model: weights -> accuracy without and under attacks, with intervals, marks and record files."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace as Options
from typing import Any

import click

from zsr.cli.command import EXISTING, STATS, WRITTEN, Names, Number, check_written
from zsr.cli.running import Log, OneLine, never_silent, told
from zsr.params import BatchSize, Images, Iterations, Seed, Threads

PRESETS: dict[str, dict[str, Any]] = {  # camps of the literature: what they measure with, in the words of the options
    "tecoa16": {"attack": ("pgd", "cw", "autoattack-paper"), "eps": ("1/255",), "sets": ("16",)},
    "robustvlm": {"attack": ("apgd", "apgd-t"), "eps": ("2/255", "4/255"), "n": 1000},
    "coop11": {"attack": ("pgd",), "eps": ("1/255",), "sets": ("10",)},
}
SETS_OF = {
    "16": (
        "tiny_imagenet cifar10 cifar100 stl10 imagenet caltech101 caltech256 oxford_pets stanford_cars food101 "
        "flowers102 fgvc_aircraft sun397 dtd eurosat pcam"
    ).split(),
    "10": (  # CoOp's eleven without UCF101, which is no set of pictures
        "imagenet caltech101 oxford_pets stanford_cars flowers102 food101 fgvc_aircraft sun397 dtd eurosat"
    ).split(),
}
PROTOCOLS = {  # values of attacks, values of the evaluation
    "trusted": ({}, {}),
    "published": (
        {"success": "last", "reduction": "mean", "precision": "fp16"},
        {"precision": "fp16", "counted": "adv", "batch_size": 256},
    ),
}
RESULTS = Path("zsr-results")  # where records go without --out
DRAWN = 100  # images of a drawn set, which has no end


@click.command(cls=OneLine)
@click.argument("weights")
@click.option("--arch", default="", help="The model's name in open_clip, such as ViT-B-32-quickgelu (OpenAI's).")
@click.option("--base", default="", help="For an image tower alone: the whole model with its text tower [openai].")
@click.option("--activation", type=click.Choice(["", "gelu", "quickgelu"]), default="", help="If the file is silent.")
@click.option("--norm-stats", type=click.Choice(["", *STATS]), default="", help="If the file is silent.")
@click.option("--sets", type=Names(), default=(), help="Names of `zsr sets`.")
@click.option("--data", type=EXISTING, help="A folder of your pictures, with a folder for each class.")
@click.option("--classnames", type=EXISTING, help="Lines FOLDER<tab>NAME for --data; else the folders' names.")
@click.option("--templates", type=EXISTING, help="One prompt on each line, with {} for the class; several: their mean.")
@click.option("--prompts", type=click.Choice(["official", "clean", "openclip"]), default="official", show_default=True)
@click.option("--resize", type=click.Choice(["natural", "small"]), default="natural", help="Crop, or stretch, --data.")
@click.option("--attack", type=Names(), default=(), help="Names of `zsr attacks` [autoattack].")
@click.option("--defence", default="", help="A defence at test time, see `zsr defences`; it shows several columns.")
@click.option("--eps", type=Names(), default=(), help="One or several radii, such as 1/255,4/255 [1/255].")
@click.option("-n", type=Number(Images, or_zero=True), default=0, help="Images of each set; 0: all.")
@click.option("--n-iter", type=Number(Iterations, or_zero=True), default=0, help="Fewer: a quick look, and named so.")
@click.option("--protocol", type=click.Choice(list(PROTOCOLS)), default="trusted", show_default=True)
@click.option("--preset", type=click.Choice(list(PRESETS)), help="What a camp of the literature measures.")
@click.option("--seed", type=Number(Seed), default=0, help="Of noise, of drawn and of chosen images.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--batch-size", type=Number(BatchSize), default=64, show_default=True)
@click.option("--threads", type=Number(Threads, or_zero=True), default=0, help="CPU threads; 0: as torch chooses.")
@click.option("--root", type=WRITTEN, envvar="DATA_ROOT", default="downloads", help="Of public sets; or DATA_ROOT.")
@click.option("--out", type=WRITTEN, help="Folder of the records [zsr-results/NAME].")
@click.option("--entry", type=WRITTEN, help="Write an entry of the leaderboard to this file, too.")
def evaluate(weights: str, **options: Any) -> None:
    """Measure WEIGHTS: a file in any known layout, a tag of open_clip, hf-hub:organisation/name, or a row of the study
    in this folder.

    \b
    zsr evaluate tower.pt --arch ViT-B-32-quickgelu --sets cifar10,stl10 -n 1000
    zsr evaluate openai --arch ViT-B-32-quickgelu --data my_pictures --attack pgd,autoattack
    zsr evaluate hf-hub:chs20/fare2-clip --preset robustvlm
    zsr evaluate tower.pt --arch ViT-B-32-quickgelu --sets cifar10 -n 200 --defence ttc --attack pgd
    zsr evaluate tecoa --sets letters            (a row of the study in this folder, as the pipeline judges it)

    An interrupted run goes on where it was: run the same command again.
    """
    given = Options(**options, data_name=options["data"].resolve().name if options["data"] else "")
    from zsr.cli import study_row

    if study_row.is_row(weights):
        source = click.get_current_context().get_parameter_source
        stated = {name for name in options if source(name) is click.core.ParameterSource.COMMANDLINE}
        if stated <= {"sets", "attack", "out"}:  # any other option is none of the pipeline's
            return study_row.evaluate(weights, given.sets, given.attack, given.out)
        weights = str(study_row.checkpoint(weights))
        if given.defence:
            given = Options(**vars(given) | {"base": given.base or str(study_row.base_model(weights))})
    from zsr.cli import defended

    with _quiet(), never_silent(f"evaluate {weights}"):
        (defended.measure if given.defence else _measure)(weights, _with_preset(given))


def _with_preset(given: Options) -> Options:
    preset = dict(PRESETS.get(given.preset or "", {}))
    if "sets" in preset:
        preset["sets"] = tuple(SETS_OF[preset["sets"][0]])
    chosen = {name: getattr(given, name) or value for name, value in preset.items()}
    given = Options(**vars(given) | chosen)
    return Options(**vars(given) | {"attack": given.attack or ("autoattack",), "eps": given.eps or ("1/255",)})


def _measure(weights: str, given: Options) -> None:
    """Check everything that costs nothing, load the model, attack one set after another, report."""
    _check(weights, given)
    from zsr.evaluation import measure
    from zsr.params import ParamError

    attacks = {eps: _attacks(given, eps) for eps in given.eps}
    quick = measure.quick_look(next(iter(attacks.values())))
    if given.entry and quick:
        raise ParamError(f"--entry: no entry is written of a quick look ({quick})")
    import torch

    from zsr.models.loading import load

    if given.threads:
        torch.set_num_threads(given.threads)
    model = load(weights, given.arch, given.base, given.activation, given.norm_stats)
    name, tower = name_of(weights), measure.weights_digest(model)
    out = given.out or RESULTS / name
    records: dict[str, tuple] = dict.fromkeys(attacks, ())
    names = [*given.sets, *([given.data_name] if given.data else [])]
    with Bar() as bar:
        for place, set_name in enumerate(names):
            split, classifier, wording = _prepared(set_name, model, given)
            bar.expect(len(split.ids) * sum(map(len, attacks.values())) * (len(names) - place))
            for eps, named in attacks.items():
                records[eps] += tuple(
                    measure.judged(
                        classifier, {set_name: split}, named, _evaluation(given, len(split.ids)), name=name,
                        wordings={set_name: wording}, device=classifier.text_embeddings.device,
                        kept=out / f"eps_{eps.replace('/', '_')}", fingerprint=_fingerprint(tower, classifier, split),
                        watched=bar.watch_of,
                    )
                )  # fmt: skip
    results = {eps: measure.Result(records[eps], measure.quick_look(named)) for eps, named in attacks.items()}
    for eps, result in results.items():
        click.echo(f"\n{name}, eps {eps}, protocol {given.protocol}\n{result!r}")
    _close(given, results, out, name, str(model.arch))


def name_of(weights: str) -> str:
    """What records call a model: the file's name without its ending, or the tag or repository."""
    return Path(weights).stem if Path(weights).exists() else weights.removeprefix("hf-hub:").replace("/", "--")


def _check(weights: str, given: Options) -> None:
    """Refuse what cannot be, before any library is loaded."""
    from zsr.data import folder
    from zsr.data.registry import entries, local
    from zsr.data.sources import absent
    from zsr.params import ParamError, StudyError, cut, nearest

    if not given.sets and not given.data:
        raise ParamError("nothing to measure on: give --sets (see `zsr sets`) or --data FOLDER")
    known = [*entries(), *local()]
    for name in given.sets:
        if name not in known:
            raise ParamError(f"--sets: there is no set '{cut(name)}'{nearest(name, known)}; `zsr sets` lists them")
    missing = absent(given.sets, given.root)
    if missing:
        commands = f"`zsr fetch {' '.join(missing)}`"
        raise StudyError(f"{given.root} lacks {', '.join(missing)}; get it with {commands}, or name another --root")
    if given.data and given.data_name in given.sets:
        raise ParamError(f"--data and --sets both have a set '{given.data_name}'; rename the folder")
    if given.classnames and not given.data:
        raise ParamError("--classnames names the folders of --data, which is not given")
    for read, path in ((folder.read_classnames, given.classnames), (folder.read_templates, given.templates)):
        if path:
            read(path)
    if given.entry and len(given.eps) > 1:
        raise ParamError(f"--entry takes one eps, got {', '.join(given.eps)}")
    check_written(given.out or RESULTS / name_of(weights), folder=True)
    if given.entry:
        check_written(given.entry)


def _attacks(given: Options, eps: str) -> dict:
    """The attacks at one eps, by name."""
    from zsr.cli.listing import VARIANTS
    from zsr.evaluation import measure
    from zsr.params import ParamError

    numbers: dict[str, Any] = {"n_iter": given.n_iter, "n_queries": given.n_iter} if given.n_iter else {}
    if given.protocol == "published":
        numbers |= PROTOCOLS["published"][0] | {"step_size": eps}
    named = {}
    for name in given.attack:
        if name in named:
            raise ParamError(f"--attack: {name} is there twice")
        module, more, _ = VARIANTS.get(name, (name, {}, ""))
        named[name] = measure.attack_of(module, eps, **numbers, **more)
    return named


def _evaluation(given: Options, largest: int) -> Any:
    from zsr.evaluation.evaluate import Evaluation
    from zsr.evaluation.measure import SAVE_EVERY

    values: dict[str, Any] = {"batch_size": given.batch_size} | PROTOCOLS[given.protocol][1]
    values["batch_size"] = min(values["batch_size"], largest)
    return Evaluation(seed=given.seed, save_every=SAVE_EVERY, protocol=given.protocol, **values)


def _prepared(name: str, model: Any, given: Options) -> tuple[Any, Any, str]:
    """The images of a set, its classifier, and a description of its prompts."""
    from zsr.data import folder
    from zsr.models import loading
    from zsr.params import ParamError

    side = model.visual.image_size
    side = side[0] if isinstance(side, (tuple, list)) else side
    templates = folder.read_templates(given.templates) if given.templates else []
    if name == given.data_name:
        names = folder.read_classnames(given.classnames) if given.classnames else None
        split, usual = folder.read(given.data, side, given.n, given.seed, names, given.resize), loading.TEMPLATE
    else:
        split, usual = _split(name, given, side), "this is a photo of {}"
    if split.own_prompts and not templates:
        embeddings = _embedded(model, split.own_prompts, ["{}"], name)
        return split, loading.classifier(model, embeddings, given.device), f"{given.prompts} prompts of the set"
    nouns = split.nouns if name == given.data_name or not templates else split.classnames
    doubles = [noun for noun in nouns if nouns.count(noun) > 1]
    if doubles:
        raise ParamError(f"{name}: two classes are called '{doubles[0]}'; give --classnames")
    used = templates or [usual]
    embeddings = _embedded(model, nouns, used, given.templates or given.classnames or name)
    wording = f"prompt '{used[0]}'" if len(used) == 1 else f"mean of {len(used)} prompts"
    return split, loading.classifier(model, embeddings, given.device), wording


def _embedded(model: Any, nouns: Sequence[str], templates: Sequence[str], origin: object) -> Any:
    """The text embeddings of the class prompts. A message about a prompt begins with its origin."""
    from zsr.models import loading
    from zsr.params import ParamError

    try:
        return loading.text_embeddings(model, model.arch, list(nouns), list(templates))
    except ParamError as error:
        raise ParamError(f"{origin}: {error}") from None


def _split(name: str, given: Options, side: int) -> Any:
    """The test images of a set: public, scanned or drawn."""
    from importlib import import_module

    from zsr.data.registry import entries, entry
    from zsr.data.sources import Files, make

    if name in entries():
        n = min(given.n or entry(name).splits["test"], entry(name).splits["test"])
        split = make(name, "test", n, given.seed, side, Files(given.root, prompt_set=given.prompts))
        return _in_memory(split)
    sizes = getattr(import_module(f"zsr.data.sets.{name}"), "SIZES", {})
    n = min(given.n or DRAWN, sizes.get("test", given.n or DRAWN))
    return make(name, "test", n, given.seed, side)


def _in_memory(split: Any) -> Any:
    from dataclasses import replace

    import numpy as np

    return replace(split, images=np.stack(list(split.images)))


def _fingerprint(tower: str, classifier: Any, split: Any) -> str:
    """The hash of the model, the prompts and the images."""
    from zsr import files

    arrays = (classifier.text_embeddings.cpu().numpy(), split.images, split.labels, split.ids)
    return files.digest(tower, *(array.tobytes() for array in arrays))


def _close(given: Options, results: dict, out: Path, name: str, arch: str) -> None:
    """Say where the records are and what to cite; write the entry of the leaderboard."""
    from zsr.cli.listing import said

    click.echo(f"\nRecords, with a verdict for each image: {out}")
    lines = dict.fromkeys(said("zsr.attacks").get(attack.partition("-")[0], "") for attack in given.attack)
    click.echo("To cite: zsr (CITATION.cff); " + " ".join(lines))
    if given.entry:
        from datetime import date

        from zsr.reports.leaderboard import entry_of

        (result,) = results.values()
        entry = entry_of(name=name, arch=arch, records=result.records, when=date.today().isoformat())
        entry.save(given.entry)
        click.echo(f"Entry of the leaderboard: {given.entry}; fill in trained_on, train_eps, who and source.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notices and warnings of libraries: what matters to a user is an error of ours."""
    import logging
    import warnings

    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class Bar:
    """One bar over all images of all sets, attacks and eps, with the time left and the accuracy so far.

    Where the output is no terminal, plain lines take its place: one for each set and attack, and those of `Log`.
    """

    def __init__(self) -> None:
        import sys

        from tqdm import tqdm

        self.terminal = sys.stderr.isatty()
        self.bar, self.log = tqdm(total=0, unit="image", disable=not self.terminal, smoothing=0.05), Log()

    def expect(self, images: int) -> None:
        """There are so many images to come; of sets that are not read yet, as many as of this set."""
        self.bar.total = self.bar.n + images

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.close()

    def watch_of(self, set_name: str, attack: str, path: Path) -> Callable[..., Iterator[int]]:
        """How to watch an evaluation."""

        def watch(steps: range, done: int, record_so_far: Callable[[], Any]) -> Iterator[int]:
            self.bar.set_description(f"{set_name} {attack}")
            self.bar.update(done)
            for start in steps:
                yield start
                self.bar.update(min(steps.step, steps.stop - start))
                self._accuracy(set_name, attack, record_so_far(), last=start + steps.step >= steps.stop)

        return watch

    def _accuracy(self, set_name: str, attack: str, record: Any, last: bool) -> None:
        percent = 100 * float(record.hits.mean())
        self.bar.set_postfix_str(f"{percent:.1f} % of {record.n} right")
        if self.terminal:
            told()
        elif last or self.log.is_due():
            told()
            click.echo(f"{set_name} {attack}: {percent:.1f} % of {record.n} images{' so far' * (not last)}", err=True)
