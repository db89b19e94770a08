"""Figures for papers: their scales, their text, their files."""

import subprocess
import sys
import warnings
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from whence.display import (
    DOUBLE_COLUMN,
    SINGLE_COLUMN,
    Change,
    Curve,
    Panel,
    change_figure,
    curve_figure,
    map_figure,
    method_figure,
    rank_figure,
    training_figure,
)
from whence.errors import NumericsError, OutputError, SettingError, ShapeError

pytest.importorskip("matplotlib", reason="needs the extra 'figures'")

MINUS = "\N{MINUS SIGN}"


def panel(value=1.0, title="cat", note="98 %", shape=(8, 8)):
    return Panel(
        picture=np.full((*shape, 3), 200, np.uint8),
        values=np.full(shape, value, np.float32),
        title=title,
        note=note,
    )


def words(plot):
    """Return every text of the figure's SVG, which holds text as text."""
    tree = ET.fromstring(plot.content("svg"))  # noqa: S314 - our own file
    return [
        " ".join("".join(one.itertext()).split()) for one in tree.iter() if one.tag[-4:] == "text"
    ]


def pictures(plot):
    """Return what is drawn as pictures, axes by axes."""
    found = [[np.asarray(image.get_array()) for image in axes.images] for axes in plot.figure.axes]
    return [one[0] for one in found if one]


def test_maps_side_by_side_share_one_scale_whose_ends_are_written():
    plot = map_figure([panel(2.0), panel(-1.0)], unit="logit")
    assert {"+2", f"{MINUS}2", "0", "logit", "cat", "98 %"} <= set(words(plot))
    image, strong, _, weak, bar = pictures(plot)
    assert (image == 200).all()
    assert (strong == strong[0, 0]).all()
    assert strong[0, 0, 0] > strong[0, 0, 2]  # orange speaks for
    assert weak[0, 0, 2] > weak[0, 0, 0]  # blue against
    distance = [np.abs(one[0, 0].astype(int) - one[0, 0].mean()).sum() for one in (strong, weak)]
    assert distance[0] > distance[1]
    assert bar[0, 0, 0] > bar[0, 0, 2]
    assert bar[-1, 0, 2] > bar[-1, 0, 0]


def test_methods_do_not_share_a_scale_but_the_images_of_one_do():
    picture = panel().picture
    maps = {"a": [np.full((8, 8), 4.0), np.full((8, 8), 2.0)], "b": [np.full((8, 8), 0.25)] * 2}
    plot = method_figure([picture, picture], maps, titles=("cat", "dog"))
    assert {"+4", f"{MINUS}4", "+0.25", "a", "b", "cat", "dog"} <= set(words(plot))
    assert "+2" not in words(plot)
    _, _, strong, weak, *_ = pictures(plot)
    assert (strong != weak).any()


def test_training_images_share_a_scale_and_the_test_image_has_its_own():
    plot = training_figure(
        panel(8.0, "3", "91 %, labelled eight"),
        [panel(0.5, "3", "+0.5"), panel(0.25, "3", "+0.2")],
        [panel(-0.1, "8", "-0.1")] * 3,
    )
    found = words(plot)
    assert {"+8", "+0.5", f"{MINUS}0.5", "logit", "influence"} <= set(found)
    assert {"test image", "speak for it", "speak against it"} <= set(found)
    assert found.index("91 %") < found.index("labelled eight")
    _, own, _, _, first, _, second, _, third, *_ = pictures(plot)
    assert (own == first).all()  # each is as strong as its scale
    assert (first != second).any()
    assert third[0, 0, 2] > third[0, 0, 0]


@pytest.mark.parametrize("width", [SINGLE_COLUMN, DOUBLE_COLUMN])
def test_a_figure_is_as_wide_as_the_column_and_nothing_leaves_it(width):
    plots = [
        map_figure([panel(1e-7, "a long name of a class")] * 5, width=width),
        training_figure(panel(), [panel(12345.0)] * 3, [panel()] * 2, width=width),
        method_figure(
            [panel().picture] * 3, {"integrated-gradients": [panel().values] * 3}, width=width
        ),
        change_figure([Change(name="accuracy", before=0.2, after=0.9)], width=width),
    ]
    for plot in plots:
        assert plot.figure.get_figwidth() == width
        plot.content("png", dpi=100)  # lays it out
        box = plot.figure.get_tightbbox()  # inches
        assert box.x0 >= -0.01
        assert box.x1 <= width + 0.01
        assert box.y0 >= -0.01
        assert box.y1 <= plot.figure.get_figheight() + 0.01


@pytest.mark.parametrize(
    ("value", "shown"), [(0.00021, f"+2.1e{MINUS}4"), (410.0, "+410"), (123456.0, "+1.2e5")]
)
def test_ends_of_a_scale_are_short(value, shown):
    assert shown in words(map_figure([panel(value)]))


def test_names_from_outside_are_text_and_no_formula():
    plot = map_figure([panel(title="$x_{", note="<b>&")])
    assert {"$x_{", "<b>&"} <= set(words(plot))


def curve(name="a", *, control=False, count=5):
    x = np.linspace(0, 1, count)
    return Curve(name=name, x=x, mean=x, low=x - 0.1, high=x + 0.1, control=control)


def test_curves_have_bands_and_controls_are_grey_and_dotted():
    plot = curve_figure([curve("gradient"), curve("random-map", control=True)], y_label="logit")
    assert {"gradient", "random-map", "logit"} <= set(words(plot))
    (axes,) = plot.figure.axes
    line, control = axes.lines
    assert line.get_color() == "#0072b2"
    assert control.get_color() == "0.35"
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(-0.1)
    assert band[:, 1].max() == pytest.approx(1.1)


def test_no_two_lines_look_the_same():
    plot = curve_figure([curve(str(k)) for k in range(32)])
    lines = plot.figure.axes[0].lines
    assert len({(one.get_color(), str(one._dash_pattern)) for one in lines}) == 32


def test_ranks_are_written_and_what_is_not_known_is_a_dash():
    ranks = np.array([[1, 2.5], [2, np.nan]])
    plot = rank_figure(["gradient", "random-map"], ["a", "b"], ranks, controls=["random-map"])
    assert {"1", "2.5", "2", "\N{EN DASH}", "random-map (control)", "gradient"} <= set(words(plot))
    (image,) = plot.figure.axes[0].images
    light = image.to_rgba(image.get_array())[..., :3].sum(axis=-1)
    assert light[0, 0] > light[1, 0] > light[0, 1]


def test_before_and_after_stand_where_they_are():
    one = Change(name="fooled", before=0.88, after=0.05, before_interval=(0.8, 0.9), better="lower")
    plot = change_figure([one, Change(name="mass", before=0.5, after=0.5)])
    assert {"fooled \N{DOWNWARDS ARROW}", "mass", "before", "after"} <= set(words(plot))
    points = [tuple(map(float, np.ravel(line.get_xdata()))) for line in plot.figure.axes[0].lines]
    assert points == [(0.8, 0.9), (0.88,), (0.05,), (0.5,), (0.5,)]


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
def test_a_file_is_whole_and_the_same_on_every_day(kind, tmp_path):
    plots = [map_figure([panel()]) for _ in range(2)]
    first, second = (plot.save(tmp_path / f"{k}.{kind}") for k, plot in enumerate(plots))
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"0.{kind}", f"1.{kind}"]


def test_a_pdf_holds_its_font_and_its_text():
    content = map_figure([panel()]).content("pdf")
    assert b"/FontFile2" in content  # TrueType, embedded
    assert b"/Type3" not in content


def test_a_notebook_shows_a_figure_as_a_picture():
    assert map_figure([panel()])._repr_png_().startswith(b"\x89PNG")


def test_the_users_settings_and_pyplot_are_left_alone():
    code = (
        "import sys, matplotlib as mpl, numpy as np\n"
        "mpl.rcParams['font.size'] = 31\n"
        "from whence.display import *\n"
        "map_figure([Panel(picture=np.zeros((4, 4, 3), np.uint8), values=np.ones((4, 4)),"
        " title='t')]).content('pdf')\n"
        "sys.exit(mpl.rcParams['font.size'] != 31 or 'matplotlib.pyplot' in sys.modules"
        " or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    from whence.errors import MissingExtra

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"pip install 'whence\[figures\]'"):
        map_figure([panel()])


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: map_figure([]), SettingError, "panels is empty"),
        (lambda: map_figure([panel()], columns=0), SettingError, "at least 1"),
        (lambda: map_figure([panel()], width=90), SettingError, "SINGLE_COLUMN"),
        (lambda: map_figure([panel(np.nan)]), NumericsError, "NaN"),
        (lambda: training_figure(panel(), []), SettingError, "proponents is empty"),
        (lambda: method_figure([panel().picture], {"a": []}), ShapeError, "'a' has 0"),
        (
            lambda: method_figure([panel().picture], {"a": [panel().values]}, titles=("x", "y")),
            ShapeError,
            "'titles' has 2",
        ),
        (lambda: curve_figure([]), SettingError, "got 0"),
        (lambda: curve_figure([curve()] * 33), SettingError, "got 33"),
        (
            lambda: curve_figure([Curve(name="a", x=np.zeros(3), mean=np.zeros(2))]),
            ShapeError,
            r"\(3,\), \(2,\)",
        ),
        (lambda: rank_figure([], [], np.zeros((0, 0))), SettingError, "at least one"),
        (lambda: rank_figure(["a"], ["b"], np.zeros((2, 2))), ShapeError, r"\(1, 1\)"),
        (lambda: change_figure([]), SettingError, "at least one"),
        (lambda: map_figure([panel()]).save("figure.gif"), SettingError, "pdf, svg, png"),
        (lambda: map_figure([panel()]).save("no/such/place.pdf"), OutputError, "cannot be written"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, error, told):
    with pytest.raises(error, match=told):
        make()


def test_drawing_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        map_figure([panel(shape=(300, 40)), panel(shape=(40, 300))]).content("png")
