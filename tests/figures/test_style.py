"""The style: theory over simulation everywhere, and files that repeat byte for byte."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import colors
from PIL import Image

from figures import catalogue, style
from sims.atomic import StorageError
from sims.experiment import Result

METADATA = {
    "Title": "saxe2014_modes",
    "Source": "Saxe et al. (2013), arXiv:1312.6120",
    "Description": '{"seed": 0, "flags": "<none> & \\"µ\\""}',
}


def small_figure():
    with style.paper():
        figure, axes = style.panels(1, 2, height=1.6)
        left, right = axes.flat
        times = np.linspace(0.0, 1.0, 5)
        values = np.stack([times, times + 0.1, times + 0.2])
        style.theory_line(left, times, times + 0.1, r"$s_1$")
        style.simulation_points(left, times, values)
        style.simulation_band(right, times, values, r"$\sigma_w = 1$", color="C1")
        style.legend(left)
        style.legend(right, simulation="band")
        style.panel_letters(axes)
    return figure


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    stem = tmp_path_factory.mktemp("figures") / "modes"
    return {path.suffix: path for path in style.save(small_figure(), stem, metadata=METADATA)}


def test_same_figure_gives_the_same_bytes_in_another_process(saved, tmp_path):
    # Another process has another hash seed, another clock and no shared font cache in memory.
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r});"
        "import test_style as t; from figures import style;"
        f"style.save(t.small_figure(), {str(tmp_path / 'modes')!r}, metadata=t.METADATA)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    for suffix, path in saved.items():
        assert (tmp_path / f"modes{suffix}").read_bytes() == path.read_bytes(), suffix


def test_files_carry_the_metadata_and_no_date(saved):
    with Image.open(saved[".png"]) as image:
        text = image.text
    assert {key: text[key] for key in METADATA} == METADATA
    assert "Creation Time" not in text
    svg = saved[".svg"].read_text()
    said = {element.text for element in ElementTree.fromstring(svg).iter() if element.text}
    assert set(METADATA.values()) <= said
    assert "<dc:date>" not in svg
    pdf = saved[".pdf"].read_bytes()
    assert b"/Title (saxe2014_modes)" in pdf
    assert b"/Subject" in pdf
    assert b"arXiv:1312.6120" in pdf
    assert b"/CreationDate" not in pdf


def test_sizes_are_those_of_the_paper_column(saved):
    with Image.open(saved[".png"]) as image:
        assert image.size == (2100, 480)  # 7.0 x 1.6 in at 300 dpi
        assert round(image.info["dpi"][0]) == 300
    figure, axes = style.panels(2, 1, span=1)
    assert figure.get_size_inches()[0] == 3.4
    assert axes.shape == (2, 1)


def test_svg_needs_no_font_and_pdf_keeps_its_text(saved):
    assert not re.search(r"<text\b", saved[".svg"].read_text())  # outlines, readable anywhere
    pdf = saved[".pdf"].read_bytes()
    assert b"/FontFile2" in pdf  # TrueType, embedded: searchable and accepted by publishers
    assert b"/Type3" not in pdf


def test_user_settings_neither_reach_a_figure_nor_are_lost():
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 31}):
        figure = small_figure()
        assert mpl.rcParams["font.size"] == 31
    assert colors.to_hex(figure.axes[0].get_facecolor()) == "#ffffff"
    assert figure.axes[0].xaxis.label.get_fontsize() == 9


def test_theory_lies_over_simulation_and_is_darker():
    figure = small_figure()
    ax = figure.axes[0]
    theory = ax.lines[0]
    marks = [container.lines[0] for container in ax.containers]
    assert all(theory.get_zorder() > mark.get_zorder() for mark in marks)
    assert theory.get_linestyle() == "-"
    assert sum(colors.to_rgb(theory.get_color())) < sum(colors.to_rgb(marks[0].get_color()))


def test_points_show_median_and_central_68_percent():
    with style.paper():
        _, axes = style.panels()
    ax = axes[0, 0]
    values = np.arange(101.0)[:, None] + np.array([0.0, 1000.0])
    style.simulation_points(ax, [1, 2], values)
    marks, _, (bars,) = ax.containers[0].lines
    np.testing.assert_allclose(marks.get_ydata(), [50, 1050])
    np.testing.assert_allclose([bar[:, 1] for bar in bars.get_segments()], [[16, 84], [1016, 1084]])


@pytest.mark.parametrize("draw", [style.simulation_points, style.simulation_band])
def test_diverged_seeds_are_left_out_without_a_warning(draw):
    _, axes = style.panels()
    values = np.array([[1.0, np.nan], [3.0, np.inf], [2.0, np.nan]])
    draw(axes[0, 0], [1, 2], values)
    np.testing.assert_array_equal(axes[0, 0].lines[0].get_ydata(), [2.0, np.nan])


def test_one_run_without_seeds_is_allowed():
    _, axes = style.panels()
    style.simulation_points(axes[0, 0], [1, 2], [5.0, 6.0])
    np.testing.assert_array_equal(axes[0, 0].lines[0].get_ydata(), [5.0, 6.0])


def test_legend_explains_line_and_mark():
    labels = [text.get_text() for text in small_figure().axes[0].get_legend().get_texts()]
    assert labels == ["$s_1$", "theory", "simulation"]


def test_ordered_colours_keep_their_order_in_grey_and_stay_off_white():
    grey = [np.dot(colors.to_rgb(c), [0.2126, 0.7152, 0.0722]) for c in style.ordered_colors(7)]
    assert np.all(np.diff(grey) > 0.03)
    assert grey[-1] < 0.8


def test_unwritable_place_is_a_storage_error_and_unknown_format_a_value_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    figure = style.panels()[0]
    with pytest.raises(StorageError, match="cannot write"):
        style.save(figure, tmp_path / "file" / "figure", ["svg"])
    with pytest.raises(ValueError, match="png, pdf, svg, got 'bmp'"):
        style.save(figure, tmp_path / "figure", ["bmp"])


def test_drawing_needs_no_pyplot():
    code = (
        "import sys; from figures import catalogue, style;"
        "figure, axes = style.panels(); style.theory_line(axes[0, 0], [0, 1], [0, 1]);"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_draw_applies_the_style_and_names_what_is_missing(monkeypatch):
    seen = {}

    def draw(result):
        seen.update(mpl.rcParams)
        return style.panels()[0]

    monkeypatch.setitem(catalogue.DRAW, "squares", draw)
    catalogue.draw(Result("squares", None, {}, {}, (), {}))
    assert seen["svg.hashsalt"] == "learning-dynamics"
    with pytest.raises(KeyError, match="'cubes'"):
        catalogue.draw(Result("cubes", None, {}, {}, (), {}))
