from zsr.reports.style import COLOURS, FREE, KNOWN, styles


def test_no_two_rows_look_alike_and_known_rows_differ_in_grey_too():
    assert len({marker for _, marker in KNOWN.values()}) == len({colour for colour, _ in KNOWN.values()}) == len(KNOWN)
    names = [*(f"row{i}" for i in range(60)), *KNOWN]
    assert len({style[:2] for style in styles(names).values()}) == len(names) <= len(FREE) + len(COLOURS)


def test_the_look_of_a_row_depends_on_its_name_alone_and_of_an_unknown_row_on_the_unknown_rows_before():
    alone, whole = styles(["mine", "tecoa"]), styles(["clip", "mine", "tga_zsr", "tecoa", "other"])
    assert alone["mine"] == whole["mine"] and alone["tecoa"] == whole["tecoa"]
    assert [style.label for style in whole.values()] == list(whole)
