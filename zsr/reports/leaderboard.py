"""The leaderboard: what papers claim for CLIP towers under attack, and what this program measured. No torch.

An entry is one tower under attacks of one eps. It has the block `claimed`, a number quoted from a source, or the block
`verified`, a number measured image by image with this program, or both. The folder `leaderboard` has one JSON file per
entry, with the fields of `Entry`. The entries of a study are made of its metrics when the table is written, so they
need no file and are never stale.

From top to bottom: the schema, files, entries from measurements, the table.
"""

import itertools
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from zsr import files
from zsr.evaluation import audit, results
from zsr.evaluation.records import Record
from zsr.evaluation.results import CLEAN, STRONGEST, WORST
from zsr.files import distinct
from zsr.params import Count, Interval, Natural, ParamError, StudyError, build
from zsr.reports import defences
from zsr.reports.markdown import BLANK, INSIDE
from zsr.reports.tables import DAGGER

Row = Mapping[str, Any]
WIDTH = 100  # columns of the page that the table fits in
GROUP = "all"  # the group of sets whose mean stands in the table
EPS = r"eps ([^ ,;]+)"  # in the text of a protocol
PROMPTS = r"; (prompt '[^;]*'|mean of \d+ prompts|\w+ prompts of the set);"
ADAPTIVE = "adaptive"  # of a defence at test time: all attacks that see the defence
ADAPTIVE_STRONGEST = f"{ADAPTIVE}-{STRONGEST}"  # the same, with AutoAttack among them
UNTRAINED = ("clip", "checkpoint")  # modules of rows that this program does not train


# The schema


@dataclass(frozen=True)
class Form:
    """Texts of one form.

    Attributes:
        pattern: the regular expression of the whole text.
        words: a description of the form, for messages.
    """

    pattern: str
    words: str

    def __contains__(self, text: str) -> bool:
        return re.fullmatch(self.pattern, text) is not None

    def told(self, value: Any) -> str:
        """What is wanted."""
        return self.words

    def advice(self, value: Any) -> str:
        """Nothing."""
        return ""

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class GreyLevels(Form):
    """Distances of pixels in [0, 1], as in "8/255". Above 0 and at most 1."""

    def __contains__(self, text: str) -> bool:
        return super().__contains__(text) and (not text or 0 < float(text.removesuffix("/255")) <= 255)


GREY = r"\d{1,3}(\.\d{1,6})?/255"
Percent = Annotated[float, Interval(0, 100)]
Text = Annotated[str, Form(r".*\S.*", "text of one line")]
Line = Annotated[str, Form(r".*", "text of one line, or empty")]
Name = Annotated[str, Form(r"[^|\n]*[^|\s][^|\n]*", "text of one line without '|'")]
Eps = Annotated[str, GreyLevels(GREY, "grey levels such as 1/255, above 0 and at most 255/255")]
TrainEps = Annotated[str, GreyLevels(f"({GREY})?", "grey levels such as 1/255, at most 255/255, or empty")]
Digest = Annotated[str, Form("([0-9a-f]{12})?", "12 hexadecimal digits, or empty")]
Date = Annotated[str, Form(r"(\d{4}(-\d\d){0,2})?", "a date such as 2024, 2024-10 or 2024-10-31, or empty")]
Scale = Literal["paper", "embedded"]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """The paper of a method. All fields are empty for a tower without a paper.

    Attributes:
        title: the title.
        venue: the venue with the year, such as "ICLR 2023".
        link: the address of the paper.
    """

    title: Line = ""
    venue: Line = ""
    link: Line = ""


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """Accuracies that a source prints, in percent. Nobody here has measured them.

    Attributes:
        clean: the accuracy without an attack.
        attacks: attack -> accuracy, under this program's names of attacks.
        worst: the worst case: the lowest number of `attacks`.
        n: number of images; 0: the source does not state it.
        scope: the sets and the number of images of each, in words.
        prompts: the prompts, in words; empty: the source does not state them.
        protocol: the digest of the protocol's text; empty: the source does not state its protocol in our form.
        who: the people who measured.
        when: the date of the measurement or of its publication; empty: unknown.
        source: the table of the paper.
    """

    clean: Percent
    attacks: dict[str, Percent]
    worst: Percent
    n: Natural = 0
    scope: Text
    prompts: Line = ""
    protocol: Digest = ""
    who: Text
    when: Date = ""
    source: Text

    def __post_init__(self) -> None:
        lowest = self._lowest()
        if self.worst != lowest:
            raise ValueError(f"worst must be the lowest of the attacks, {lowest:g}, got {self.worst:g}")

    def _lowest(self) -> float:
        stray = [name for name in self.attacks if name in (CLEAN, WORST)]
        if stray or not self.attacks:
            raise ValueError(f"attacks must have at least one attack, and not '{CLEAN}' or '{WORST}'")
        return min(self.attacks.values())


@dataclass(frozen=True, kw_only=True)
class Verified(Claimed):
    """Accuracies that this program measured image by image, in percent.

    Here `worst` counts the images that survive every attack, so `worst` may be below the lowest number of `attacks`.
    `source` is the command that measured.

    Attributes:
        n: number of images.
        protocol: the digest of the protocol's text.
        interval: the 95 % interval of `worst` over the choice of images, low and high.
        marked: the names of the numbers that the audit does not trust: attacks, "clean" or "worst_case".
    """

    n: Count
    protocol: Annotated[str, Form("[0-9a-f]{12}", "12 hexadecimal digits")]
    interval: tuple[Percent, ...]
    marked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lowest = self._lowest()
        if self.worst > lowest:
            raise ValueError(f"worst must be at most the lowest of the attacks, {lowest:g}, got {self.worst:g}")
        if len(self.interval) != 2 or not self.interval[0] <= self.worst <= self.interval[1]:
            raise ValueError(f"interval must be low and high around worst, {self.worst:g}, got {list(self.interval)}")
        for name in self.marked:
            if name not in (*self.attacks, CLEAN, WORST):
                raise ValueError(f"marked must name attacks of the block, got '{name}'")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tower on the leaderboard, under attacks of one eps. At least one of the two blocks is there.

    Attributes:
        name: the name of the tower or of its method.
        scale: "paper" for towers of published size on public sets; "embedded" for the tiny towers of this repository.
        arch: the architecture, as open_clip or zsr/models/configs names it.
        trained_on: the set that the tower was fine-tuned on; empty: none, or unknown.
        train_eps: eps of the attack in training; empty: none, or unknown.
        paper: the paper of the method.
        eps: eps of the attacks.
        claimed: the numbers of a source.
        verified: the numbers that this program measured.
        note: a fact that a reader of the numbers must know.
    """

    name: Name
    scale: Scale
    arch: Text
    trained_on: Annotated[str, Form(r"[^|\n]*", "text of one line without '|', or empty")] = ""
    train_eps: TrainEps = ""
    paper: Paper = Paper()
    eps: Eps
    claimed: Claimed | None = None
    verified: Verified | None = None
    note: Line = ""

    def __post_init__(self) -> None:
        if self.claimed is None and self.verified is None:
            raise ValueError("the blocks 'claimed' and 'verified' are both missing; an entry needs one")

    def save(self, path: Path) -> None:
        """Write the JSON file that `load` reads. A block that is not there is left out."""
        files.write_json(path, {key: value for key, value in asdict(self).items() if value is not None})


# Files


def load(path: Path) -> Entry:
    """The entry in a JSON file.

    Raises ParamError with one line that names the file and the key: not JSON; a key is unknown, missing, of the wrong
    type or out of range; the numbers of a block contradict each other.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParamError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ParamError(f"{path}: not valid JSON: {error}") from None
    try:
        return _entry(document)
    except ParamError as error:
        raise ParamError(f"{path}: {str(error).removeprefix(': ')}") from None


def read(folder: Path) -> list[Entry]:
    """The entries of all JSON files in a folder, in the order of their file names. Hidden files do not count.

    Raises ParamError: there is no such folder; as `load`.
    """
    if not folder.is_dir():
        raise ParamError(f"{folder}: no such folder")
    return [load(path) for path in sorted(folder.glob("*.json")) if not path.name.startswith(".")]


def _entry(document: Any) -> Entry:
    if not isinstance(document, Mapping):
        raise ParamError(f"must hold keys and values, got {document!r}")
    schemas = {"claimed": Claimed, "verified": Verified}
    blocks = {key: build(schema, document[key], key) for key, schema in schemas.items() if key in document}
    return build(Entry, {**document, **blocks}, "")


# Entries from measurements


def entry_of(
    *,
    name: str,
    arch: str,
    records: Sequence[Record],
    trained_on: str = "",
    train_eps: str = "",
    who: str = "unknown",
    when: str = "",
    source: str = "zsr evaluate",
    scale: Scale = "paper",
    paper: Paper | None = None,
    note: str = "",
) -> Entry:
    """A verified entry from the records of one tower.

    Every number is a share of images. Of several sets it is the mean, every set weighing the same; of several seeds of
    training it is also the mean over the seeds. An image counts in the worst case if it survives every attack. The
    interval of the worst case is Wilson's for one set; for several sets Wilson's limits are combined as in
    `zsr.evaluation.results`. eps and prompts are read from the protocols of the records.

    Args:
        name, arch, trained_on, train_eps, scale, paper, note: fields of `Entry`.
        records: one record per attack, set and seed. A record of the attack "clean" is not needed, since every record
            has the verdicts without an attack.
        who, when, source: fields of `Verified`.

    Raises:
        StudyError: no record is under attack; the records are of several towers; an attack lacks a set or saw other
            images; the protocols have several eps; a value is of the wrong form.
    """
    cells = results.with_worst_case(results.with_clean(_by_cell(records)))
    groups = {GROUP: list(dict.fromkeys(cell[2] for cell in cells))}
    averages = audit.annotated(results.average_rows(cells, groups), audit.marks(cells), groups)
    facts = {"name": name, "scale": scale, "arch": arch, "trained_on": trained_on, "train_eps": train_eps}
    about = {"paper": asdict(paper or Paper()), "note": note}
    return _entry(facts | about | _measurement(averages, results.cell_rows(cells), who, when, source))


def _by_cell(records: Sequence[Record]) -> dict[results.Cell, list[Record]]:
    """(method, attack, set) -> the records of the seeds. Raises StudyError unless all attacks saw the same images."""
    cells: dict[results.Cell, list[Record]] = {}
    for record in records:
        cells.setdefault((record.method, record.attack, record.set_name), []).append(record)
    methods, attacks, sets = (list(dict.fromkeys(cell[part] for cell in cells)) for part in range(3))
    if not [attack for attack in attacks if attack != CLEAN]:
        raise StudyError("an entry of the leaderboard needs a record of a model under attack, got none")
    if len(methods) > 1:
        raise StudyError(f"an entry of the leaderboard is of one tower, got records of {', '.join(methods)}")
    seeds = [record.seed for record in cells[methods[0], attacks[0], sets[0]]]
    for attack, name in itertools.product(attacks, sets):
        of_cell, of_set = (cells.get((methods[0], shown, name), []) for shown in (attack, attacks[0]))
        images = {record.ids_digest for record in (*of_cell, *of_set)}
        if [record.seed for record in of_cell] != seeds or len(images) != 1 or len(set(seeds)) < len(seeds):
            raise StudyError(f"{name} under {attack}: there must be one record of each seed, all of the same images")
    return cells


def measured(study: Mapping, averages: Sequence[Row], cells: Sequence[Row], title: str) -> list[Entry]:
    """The verified entries of a study, one for each of its methods; none where its attacks have several eps.

    Args:
        study: the catalogue of the study, metrics/results/study.json.
        averages: the rows of metrics/results/averages.csv.
        cells: the rows of metrics/results/accuracy.csv.
        title: the name of the study.
    """
    if len(_quoted(EPS, [row["protocol"] for row in cells])) != 1:
        return []
    entries = []
    for method in study["methods"]:
        of_method = [row for row in averages if row["method"] == method]
        method_cells = [row for row in cells if row["method"] == method]
        trained_on = _trained_on(study, method)
        entries.append(
            _entry(
                {"name": method, "scale": _scale(study), "arch": study["arch"], "trained_on": trained_on}
                | _measurement(of_method, method_cells, "zsr", "", f"`dvc repro` of the study '{title}'")
            )
        )
    return entries


def _scale(study: Mapping) -> Scale:
    """The scale of a study. The names of tiny towers are those in zsr/models/configs."""
    return "embedded" if study["arch"].startswith("zsr-") else "paper"


def _trained_on(study: Mapping, method: str) -> str:
    """The set that the tower of a method was fine-tuned on; empty: none."""
    trained = study["methods"][method].get("module", method) not in UNTRAINED
    return ", ".join(study["groups"]["source"]) if trained else ""


def defended(study: Mapping, rows: Sequence[Row], title: str) -> list[Entry]:
    """The verified entries of the defences of a study, one for each. The number of a defence is its worst case.

    A defence under attacks of several eps has no entry.

    Args:
        study: the catalogue of the study, metrics/results/study.json.
        rows: the rows of metrics/defended/*.csv.
        title: the name of the study.
    """
    entries = []
    for row in defences.means(rows):
        attacks = defences.attacks(row)
        eps = {study["attacks"][name] for name in attacks}
        images = {of_set["set"]: int(of_set["n"]) for of_set in rows if of_set["defence"] == row["defence"]}
        if len(eps) == 1:
            tower = {"arch": study["arch"], "scale": _scale(study), "trained_on": _trained_on(study, row["method"])}
            facts = {"name": f"{row['method']} + {defences.name_of(row)}", "eps": eps.pop()} | tower
            del images[defences.MEAN]
            entries.append(_entry(facts | {"verified": _of_defence(row, images, STRONGEST in attacks, title)}))
    return entries


def _of_defence(row: Row, images: Mapping[str, int], strongest: bool, title: str) -> dict[str, Any]:
    """The field `verified` of the entry of a defence. images: set -> number of images."""
    adaptive = ADAPTIVE_STRONGEST if strongest else ADAPTIVE
    return {
        "clean": float(row["clean"]),
        "attacks": {"oblivious": float(row["oblivious"]), adaptive: float(row["adaptive"])},
        "worst": float(row["worst"]),
        "interval": [float(row["low"]), float(row["high"])],
        "marked": [WORST] if row["marks"] else [],
        "n": sum(images.values()),
        "scope": _scope(images),
        "prompts": ", ".join(_quoted(PROMPTS, [row["protocol"]])),
        "protocol": files.digest(row["protocol"])[:12],
        "who": "zsr",
        "source": f"`dvc repro` of the study '{title}', a defence at test time",
    }


def _measurement(averages: Sequence[Row], cells: Sequence[Row], who: str, when: str, source: str) -> dict[str, Any]:
    """The fields `eps` and `verified` of an entry, from the rows of one tower."""
    by_attack = {row["attack"]: row for row in averages if row["group"] == GROUP}
    attacks = [attack for attack in by_attack if attack not in (CLEAN, WORST)]
    worst = by_attack[WORST if WORST in by_attack else attacks[0]]
    texts = sorted({str(row["protocol"]) for row in cells if row["attack"] in attacks})
    images = {row["set"]: int(row["n"]) for row in cells}
    marked = [attack for attack, row in by_attack.items() if row["marks"]]
    if WORST not in by_attack and attacks[0] in marked:
        marked.append(WORST)
    eps = _quoted(EPS, texts)
    if len(eps) != 1:
        raise ParamError(f"eps must be the same in all protocols, got {', '.join(eps) or 'none'}")
    block = {
        "clean": float(by_attack[CLEAN]["mean"]),
        "attacks": {attack: float(by_attack[attack]["mean"]) for attack in attacks},
        "worst": float(worst["mean"]),
        "interval": [float(worst["low"]), float(worst["high"])],
        "marked": marked,
        "n": sum(images.values()),
        "scope": _scope(images),
        "prompts": ", ".join(_quoted(PROMPTS, texts)),
        "protocol": files.digest(*texts)[:12],
        "who": who,
        "when": when,
        "source": source,
    }
    return {"eps": eps[0], "verified": block}


def _quoted(pattern: str, texts: Sequence[str]) -> list[str]:
    """The distinct parts of protocols that a pattern finds."""
    return list(dict.fromkeys(found for text in texts for found in re.findall(pattern, " ".join(text.split()))))


def _scope(images: Mapping[str, int]) -> str:
    """The words for the sets and the images of each: "mean over 2 sets: letters 100, digits_real 300"."""
    names = ", ".join(f"{name} {n}" for name, n in images.items())
    return f"mean over {len(images)} sets: {names}" if len(images) > 1 else names


# The table

COLUMNS = ("tower", "trained on", "eps", "clean", "PGD", "CW", "AA", "worst [interval]", "n", "status", "who")
ATTACKS = ("pgd", "cw", "autoattack")  # the attacks that have a column, in this order
CAPTIONS = {
    "paper": "Paper scale: towers of published size on public sets",
    "embedded": "Embedded scale: tiny towers of this repository on drawn sets",
}
NOTES = (
    "A claimed number is quoted from its source, and nobody here has measured it.",
    "A verified number was measured with this program, image by image; its source has the digest of the protocol.",
    "The worst case of a claim is its lowest number; that of a verified row counts images that survive every attack.",
    "A row without AA met weaker attacks alone, so its worst case is too high beside the others.",
    "Compare rows of one table with the same eps only. A study whose attacks have several eps has no row here.",
    "All numbers are accuracies in %, rounded to 0.1. eps is the largest change of a pixel. AA is AutoAttack, in the "
    "version that the source or the protocol names. n is the number of images. who is the number of the source. "
    "[low, high] is a 95 % interval over the choice of images, and of seeds where there are several.",
)
DEFENDED = (
    "A row TOWER + DEFENCE is a defence at test time. Its worst case counts the images that survive the attacks on the "
    "tower alone and the attacks that see the defence (docs/test_time_defences.md)."
)
DISTRUST = f"{DAGGER} The audit does not trust this number as it stands (docs/audit.md)."


def table(entries: Sequence[Entry]) -> str:
    """The leaderboard in Markdown, no line longer than WIDTH.

    One table per scale, the paper scale first. Verified rows stand before claimed rows, rows with AutoAttack before
    rows without it, whose worst case is too high, and the highest worst case stands first. Below the tables: notes, the
    numbered sources, the papers of the towers, and notes on single rows.
    """
    rows = _sorted(entries)
    sources = distinct([{"text": _source(entry, block)} for entry, block in rows], "text")
    parts = ["# Leaderboard of zero-shot adversarial robustness"]
    for scale, caption in CAPTIONS.items():
        body = [_cells(entry, block, sources) for entry, block in rows if entry.scale == scale]
        parts.append(f"**{caption}**\n\n{_grid(body) if body else 'There is no entry.'}")
    marked = any(isinstance(block, Verified) and block.marked for _, block in rows)
    defended = any(name.startswith(ADAPTIVE) for _, block in rows for name in block.attacks)
    notes = [*NOTES, *([DEFENDED] if defended else []), *([DISTRUST] if marked else [])]
    parts.append("\n".join(_wrapped("- ", note) for note in notes))
    parts.append("**Sources**")
    parts.append("\n".join(_wrapped(f"{i}. ", text) for i, text in enumerate(sources, 1)))
    for title, texts in {"Papers": _papers(entries), "Notes on rows": _notes(entries)}.items():
        if texts:
            parts += [f"**{title}**", "\n".join(_wrapped("- ", text) for text in texts)]
    return "\n\n".join(parts) + "\n"


def _sorted(entries: Sequence[Entry]) -> list[tuple[Entry, Claimed]]:
    """One row per block of an entry, in the order of the tables. An entry with both blocks has two rows."""
    rows = [(entry, block) for entry in entries for block in (entry.verified, entry.claimed) if block is not None]
    scales = list(CAPTIONS)
    return sorted(
        rows,
        key=lambda row: (
            scales.index(row[0].scale),
            not isinstance(row[1], Verified),
            STRONGEST not in row[1].attacks and ADAPTIVE_STRONGEST not in row[1].attacks,
            -row[1].worst,
            row[0].name,
        ),
    )


def _source(entry: Entry, block: Claimed) -> str:
    """The text of a source: who measured what, when, and how."""
    who = ", ".join(part for part in (block.who, block.when) if part)
    protocol = f"protocol {block.protocol}" if block.protocol else ""
    parts = [f"{who}: {block.source}", entry.arch, block.scope, block.prompts, protocol]
    return "; ".join(part for part in parts if part) + "."


def _papers(entries: Sequence[Entry]) -> list[str]:
    """One text per paper, with the towers that it is about."""
    names: dict[str, list[str]] = {}
    for entry in entries:
        told = ", ".join(part for part in (entry.paper.title, entry.paper.venue, entry.paper.link) if part)
        if told:
            names.setdefault(told, []).append(entry.name)
    return [f"{', '.join(dict.fromkeys(towers))}: {told}." for told, towers in names.items()]


def _notes(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(f"{entry.name}, {entry.scale} scale: {entry.note}" for entry in entries if entry.note))


def _cells(entry: Entry, block: Claimed, sources: Sequence[str]) -> list[str]:
    """The texts of a row. An attack such as "autoattack-paper" stands in the column of "autoattack"."""
    verified = block if isinstance(block, Verified) else None
    marked = verified.marked if verified else ()
    values = {CLEAN: block.clean, **block.attacks, WORST: block.worst}
    texts = {name: f"{value:.1f}{DAGGER * (name in marked)}" for name, value in values.items()}
    lowest = sorted(block.attacks, key=lambda name: -block.attacks[name])
    column = {name.partition("-")[0]: texts[name] for name in lowest}  # of several, the lowest wins
    limits = " [{:.1f}, {:.1f}]".format(*verified.interval) if verified else ""
    return [
        entry.name,
        entry.trained_on or "-",
        entry.eps,
        texts[CLEAN],
        *(column.get(attack, "") for attack in ATTACKS),
        texts[WORST] + limits,
        f"{block.n:,}" if block.n else "",
        "verified" if verified else "claimed",
        str(sources.index(_source(entry, block)) + 1),
    ]


def _grid(body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown without blanks beside the bars. Names too long for the page end in "…"."""
    lines = [[INSIDE.sub(BLANK, cell) for cell in line] for line in (COLUMNS, *body)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    while sum(widths) + len(widths) + 1 > WIDTH:
        widths[0 if widths[0] >= widths[1] else 1] -= 1  # the columns of the tower and of the training set
    lines = [[_cut(text, width) for text, width in zip(line, widths)] for line in lines]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"|{'|'.join(text.ljust(width) for text, width in zip(line, widths))}|" for line in lines)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _wrapped(bullet: str, text: str) -> str:
    """An item of a list. Further lines are indented below the text of the first line."""
    indent = " " * len(bullet)
    return textwrap.fill(text, WIDTH, initial_indent=bullet, subsequent_indent=indent, break_on_hyphens=False)
