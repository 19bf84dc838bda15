"""The characters of the drawn world: each is really in its fonts, each looks different, each has a name of its own."""

from itertools import combinations

import numpy as np
import pytest

from zsr.data.captioned import draw_pool
from zsr.data.drawing.glyphs import (
    DIGIT_GLYPHS,
    GAME_PIECES,
    GREEK_LETTERS,
    LETTERS,
    SIGN_GLYPHS,
    THING_GLYPHS,
    source_half,
    unseen_half,
)
from zsr.data.drawing.pictures import STAMP, glyph_stamp, place, shape_stamp
from zsr.data.sources import make
from zsr.data.vocabulary import SHAPES, noun_phrase

KINDS = {
    "letters": LETTERS,
    "greek": GREEK_LETTERS,
    "things": THING_GLYPHS,
    "signs": SIGN_GLYPHS,
    "games": GAME_PIECES,
    "digits": DIGIT_GLYPHS,
}
GLYPHS = tuple(glyph for kind in KINDS.values() for glyph in kind)
UNSEEN = ("letters", "greek", "things", "signs", "games", "shapes", "digits_font", "digits_real", "textures")
NO_CHARACTER = "\uffff"  # fonts draw their box for missing characters


@pytest.mark.parametrize("kind", KINDS)
def test_every_glyph_is_in_every_font_it_is_drawn_in(kind):
    for glyph in KINDS[kind]:
        for font in glyph.train_fonts + glyph.test_fonts:
            stamp = glyph_stamp(glyph.character, font, 0)
            assert stamp.shape == (STAMP, STAMP) and 100 < (stamp > 127).sum() < 6000, (glyph.name, font)
            assert not np.array_equal(stamp, glyph_stamp(NO_CHARACTER, font, 0)), (glyph.name, font)


def test_no_glyph_touches_the_border_of_its_mask():
    for glyph in GLYPHS:
        for font in glyph.train_fonts + glyph.test_fonts:
            stamp = glyph_stamp(glyph.character, font, glyph.widest)
            assert not stamp[0].any() and not stamp[-1].any() and not stamp[:, 0].any() and not stamp[:, -1].any()


@pytest.mark.parametrize("kind", KINDS)
def test_two_classes_look_different_in_every_font(kind):
    for font in sorted({font for glyph in KINDS[kind] for font in glyph.train_fonts + glyph.test_fonts}):
        stamps = {glyph.name: glyph_stamp(glyph.character, font, 1) > 127 for glyph in KINDS[kind]}
        for (one, first), (other, second) in combinations(stamps.items(), 2):
            assert (first ^ second).sum() > 0.02 * (first | second).sum(), (one, other, font)


def test_test_fonts_are_held_out():
    for glyph in GLYPHS:
        assert glyph.train_fonts and glyph.test_fonts and not set(glyph.train_fonts) & set(glyph.test_fonts)


def test_names_and_characters_are_distinct():
    assert len({glyph.name for glyph in GLYPHS} | set(SHAPES)) == len(GLYPHS) + len(SHAPES)
    assert len({glyph.character for glyph in GLYPHS}) == len(GLYPHS)


def test_the_source_set_and_the_unseen_sets_share_no_class():
    source = set(make("glyphs", "test", 60, 0, 24).classnames)
    for name in UNSEEN:
        assert not source & set(make(name, "test", 20, 0, 24).classnames), name


def test_the_two_halves_are_the_whole():
    for kind in (LETTERS, GREEK_LETTERS, THING_GLYPHS, SIGN_GLYPHS):
        assert set(source_half(kind)) | set(unseen_half(kind)) == set(kind)
        assert len(source_half(kind)) == len(unseen_half(kind)) == len(kind) // 2


def test_a_test_split_shows_test_fonts_and_a_training_split_shows_training_fonts(monkeypatch):
    shown = set()

    def stamp(character, font, stroke):
        shown.add(font)
        return glyph_stamp(character, font, stroke)

    monkeypatch.setattr("zsr.data.drawing.glyphs.glyph_stamp", stamp)
    train_fonts = {font for glyph in GLYPHS for font in glyph.train_fonts}
    make("glyphs", "train", 300, 0, 24)
    draw_pool(600, 0, 24)
    assert shown == train_fonts
    shown.clear()
    make("letters", "test", 60, 0, 24)
    assert shown and not shown & train_fonts


@pytest.mark.parametrize(
    "classname, phrase",
    [
        ("umbrella", "an umbrella"),
        ("euro sign", "a euro sign"),
        ("letter e", "the letter e"),
        ("Greek letter eta", "the Greek letter eta"),
        ("pair of scissors", "a pair of scissors"),
        ("digit eight", "the digit eight"),
    ],
)
def test_the_article_of_a_class_name(classname, phrase):
    assert noun_phrase(classname) == phrase


def test_a_placed_stamp_keeps_its_ink_and_stays_in_range():
    stamp = shape_stamp("square")
    ink = (stamp > 127).mean()
    for seed in range(20):
        mask = place(np.random.default_rng(seed), stamp, 24)
        assert mask.shape == (24, 24) and mask.dtype == np.float32 and 0 <= mask.min() and mask.max() <= 1
        assert 0.9**2 * 0.95 < mask.mean() / ink < 1.3**2 * 1.05


def test_a_bent_stamp_is_another_picture_of_the_same_size():
    stamp = glyph_stamp("5", "DejaVuSans", 2)
    bent = place(np.random.default_rng(0), stamp, 24, bend=0.08)
    straight = place(np.random.default_rng(0), stamp, 24)
    assert not np.allclose(bent, straight, atol=0.1) and abs(bent.mean() / straight.mean() - 1) < 0.3
