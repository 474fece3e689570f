"""The report: one file that needs nothing else, readable, accessible, and the same each time."""

import base64
import dataclasses
import io
import re
import shlex
from collections import Counter
from html.parser import HTMLParser

import pytest
from PIL import Image

from figures import __main__ as cli
from figures import catalogue as drawings
from figures import commands, report, style
from sims import catalogue, runner
from sims.store import Store

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """Every element with its attributes and the text inside it; unbalanced tags are an error."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", "inside": [parent["tag"] for parent in self.open]}
        element.update(attrs)
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attributes):
        found = [element for element in self.elements if element["tag"] == tag]
        return [e for e in found if all(e.get(k) == v for k, v in attributes.items())]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def pngs():
    return {}  # drawn once: a figure takes longer than a page


@pytest.fixture
def entries(experiments, store, pngs, tmp_path):
    made = []
    for experiment in experiments:
        result = runner.run(experiment, experiment.quick, store=store)
        if result.name not in pngs:
            (path,) = style.save(drawings.draw(result), tmp_path / result.name, ["png"])
            pngs[result.name] = path.read_bytes()
        made.append(report.Entry(experiment, result, pngs[result.name]))
    return made


@pytest.fixture
def html(entries):
    return report.render(entries)


@pytest.fixture
def page(html):
    return Page(html)


def test_nothing_is_asked_of_the_network(html, page):
    for element in page.elements:
        assert element["tag"] not in ("script", "link", "iframe", "object", "video")
        assert element.get("src", "data:").startswith("data:")
        for link in (element.get("href"), element.get("action"), element.get("srcset")):
            if link and element["tag"] == "a":
                assert link.startswith(("#", "https://arxiv.org/abs/"))
            else:
                assert link is None
    (css,) = [element["text"] for element in page.all("style")]
    assert "url(" not in css
    assert "@import" not in css


def test_what_is_said_is_there_and_escaped(html, page):
    text = " ".join(page.all("body")[0]["text"].split())
    assert "2 of 3 claims hold" in text
    for part in (
        "cubic & grows as n³/3",
        "Archimedes (-225)",
        "On Spirals <of course>",
        "Prop. 10",
    ):
        assert part in text
    assert "<of course>" not in html
    assert [link["href"] for link in page.all("a") if "arxiv" in link["href"]] == [
        "https://arxiv.org/abs/0000.00225",
        "https://arxiv.org/abs/0000.00100",
    ]


def test_claims_table_has_verdicts_and_reasons(page):
    rows = [row["text"].split() for row in page.all("tr") if "tbody" in row["inside"]]
    said = [" ".join(row) for row in rows]
    assert "sum relative error; noise of one part in 10⁴" in said[0]
    assert "degree absolute error; few points 3 3.01 0.01 0.1 holds" in said
    assert "sum relative error; exact arithmetic 2 1 0.5 1e-09 fails" in said
    assert len(page.all("td", **{"class": "fails"})) == 1


def test_figures_are_embedded_whole(page, entries):
    images = page.all("img")
    assert len(images) == 2
    for image, entry in zip(images, entries, strict=True):
        kind, data = image["src"].split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == entry.png
        pixels = Image.open(io.BytesIO(entry.png)).size[0]
        assert int(image["width"]) == round(3.4 * report.CSS_PIXELS_PER_INCH)
        assert pixels >= 2 * int(image["width"])  # sharp on a screen of twice the density
        assert entry.experiment.statement in image["alt"]


def test_equations_are_mathml_or_left_as_they_are(page):
    shown = page.all("math")
    assert [equation["alttext"] for equation in shown] == [
        r"\sum_{k=1}^{n} k^2 = \frac{n (n+1) (2n+1)}{6}",
        r"\sum_{k=1}^{n} k^3 = \left( \frac{n (n+1)}{2} \right)^2",
    ]
    assert "∑" in shown[0]["text"]
    assert all(equation["display"] == "block" for equation in shown)
    assert [code["text"] for code in page.all("code", **{"class": "latex"})] == [
        r"\unknowncommand{n}"
    ]


@pytest.mark.parametrize(
    "latex", [r"\frac{a", r"\begin{aligned} a &= b \end{aligned}", "a } b", "", r"\left( x", "<b>"]
)
def test_no_formula_breaks_the_page(latex):
    Page(f"<p>{report.equation(latex)}</p>")


def test_every_equation_of_the_catalogue_has_mathml():
    for experiment in catalogue.EXPERIMENTS:
        for latex in experiment.equations:
            assert report.equation(latex).startswith("<math"), (experiment.name, latex)


def test_every_experiment_of_the_catalogue_has_a_drawing():
    assert set(drawings.DRAW) == {experiment.name for experiment in catalogue.EXPERIMENTS}


def test_contents_lead_to_every_experiment(page):
    links = [link["href"] for link in page.all("a") if "nav" in link["inside"]]
    assert links == ["#squares", "#cubes"]
    ids = Counter(element["id"] for element in page.elements if "id" in element)
    assert set(ids.values()) == {1}
    assert {link[1:] for link in links} <= set(ids)


def test_accessible_to_those_who_do_not_see_it(page):
    assert page.all("html")[0]["lang"] == "en"
    assert [heading["text"] for heading in page.all("h1")] == ["Learning dynamics"]
    for tag in ("header", "nav", "main", "footer"):
        assert len(page.all(tag)) == 1
    assert all(header["scope"] in ("row", "col") for header in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert len(page.all("figure")) == len(page.all("figcaption")) == 2
    labels = {e["aria-labelledby"] for e in page.elements if "aria-labelledby" in e}
    assert labels <= {element.get("id") for element in page.elements}


def test_fits_telephones_and_dark_rooms(html):
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert "@media (prefers-color-scheme: dark)" in html
    assert "@media (max-width" in html


def test_provenance_and_config_are_shown(page):
    facts = {row["text"].split()[0]: row["text"].split()[1:] for row in page.all("tr")}
    assert facts["upto"] == ["8"]
    for name in ("seed", "wall_seconds", "packages.jax", "XLA_FLAGS", "x64", "key", "commit"):
        assert facts[name]
    assert "cached" not in facts


def test_same_results_give_the_same_bytes(experiments, entries, html, store):
    again = [runner.run(experiment, experiment.quick, store=store) for experiment in experiments]
    assert all(result.provenance["cached"] for result in again)
    stored = [entry._replace(result=result) for entry, result in zip(entries, again, strict=True)]
    assert report.render(stored) == html


def test_an_experiment_without_a_figure_and_a_report_of_nothing(entries):
    page = Page(report.render([entries[0]._replace(png=None)]))
    assert not page.all("img")
    assert page.all("table")
    assert "0 of 0" in report.render([])


@pytest.mark.parametrize(
    "words",
    [
        ("--full",),
        ("--seeds", "4"),
        ("--full", "--set", "scale=1e-3", "--seed", "11"),
        ("--set", "upto=9", "--set", "seeds=32"),
    ],
)
def test_the_command_shown_computes_the_result_again(experiments, store, words):
    squares, _ = experiments

    def run(words):
        arguments = cli._parser().parse_args(["run", "squares", *words])
        config = commands._configured(squares, arguments)
        return runner.run(squares, config, store=store, seed=arguments.seed)

    first = run(words)
    program, command, name, *shown = shlex.split(report.reproduce(squares, first))
    assert (program, command, name) == ("ldyn", "run", "squares")
    again = run(shown)
    assert again.provenance["key"] == first.provenance["key"]


def test_what_differs_from_the_quick_preset_is_marked(entries):
    squares = entries[0]
    changed = dataclasses.replace(squares.result.config, scale=2.5)
    page = Page(report.render([squares._replace(result=squares.result._replace(config=changed))]))
    (row,) = page.all("tr", **{"class": "changed"})
    assert re.match(r"\s*scale\s+2.5\s+not the quick preset", row["text"])
