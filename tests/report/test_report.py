"""The report is one file that shows what was found, safely and for everybody."""

import base64
import dataclasses
import hashlib
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import whence.report
from whence.display import heat_rgba, symmetric_limit
from whence.errors import OutputError, RecordError, SettingError
from whence.report import (
    figure_png,
    render_explanation,
    render_report,
    words,
    write_explanation,
    write_report,
)
from whence.report.compare import agreement_of, rank_correlation
from whence.report.summary import summary_sentences
from whence.results import MapRecord

TEMPLATES = Path(whence.report.__file__).parent / "templates"
VOID = {"meta", "link", "img", "input", "br"}
EVIL = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'{{7*7}}"


class Page(HTMLParser):
    """Reads a page strictly: every tag must be closed, in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in <{tag}>"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.texts.append(data)

    def all(self, tag, kind=None):
        found = [attrs for name, attrs in self.tags if name == tag]
        return [one for one in found if kind is None or kind in one.get("class", "").split()]

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture(scope="module")
def record(fakes):
    return fakes.fake_audit(queries=4, each=3, suspects=20, regions=2)


@pytest.fixture(scope="module")
def page(record):
    return Page(render_report(record))


def picture_of(uri):
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA")
    )


def test_each_test_image_has_its_section_with_all_its_training_images(record, page):
    assert len(page.all("article", "query")) == len(record.queries)
    assert len(page.all("li", "card")) == sum(
        len(query.proponents) + len(query.opponents) for query in record.queries
    )
    for query in record.queries:
        assert query.name in page.text
        for influence in (*query.proponents, *query.opponents):
            assert record.training_images[influence.index].name in page.text


def test_right_and_wrong_are_told_in_words(record, page):
    wrong = sum(query.label != query.prediction for query in record.queries)
    assert 0 < wrong < len(record.queries)
    assert len(page.all("span", "wrong")) == wrong
    assert len(page.all("span", "right")) == len(record.queries) - wrong
    verdicts = [one["data-verdict"] for one in page.all("article", "query")]
    assert verdicts.count("wrong") == wrong


def test_suspect_labels_and_regions_are_all_there(record, page):
    for suspect in record.suspect_labels:
        assert suspect.name in page.text
    assert len(page.all("article", "region")) == 2
    assert "the marked box holds 62 % of the positive influence" in page.text


def test_a_region_is_drawn_in_pixels_of_the_picture(record):
    images = tuple(record.training_images)[:2]
    region = dataclasses.replace(record.regions[0], images=images, box=(3, 1, 9, 12))
    page = Page(render_report(dataclasses.replace(record, regions=(region,))))
    left, top, right, bottom = region.box
    drawn = page.all("rect", "line")[0]
    size = (drawn["x"], drawn["y"], drawn["width"], drawn["height"])
    assert size == (str(left), str(top), str(right - left), str(bottom - top))
    height, width = record.training_images[images[0]].picture.shape[:2]
    assert len(page.all("svg", "boxes")) == 2
    assert page.all("svg", "boxes")[0]["viewbox"] == f"0 0 {width} {height}"


def test_a_training_image_with_a_suspect_label_says_so(record, page):
    suspects = {suspect.index for suspect in record.suspect_labels}
    shown = [
        influence.index
        for query in record.queries
        for influence in (*query.proponents, *query.opponents)
    ]
    assert len(page.all("a", "suspect")) == sum(index in suspects for index in shown) > 0


def test_each_map_has_its_own_scale_and_training_images_a_shared_one_beside_it(fakes):
    record = fakes.fake_audit(queries=1, each=2, regions=0, suspects=0)
    query = record.queries[0]
    page = Page(render_report(record))
    maps = [one.map.values for one in (*query.proponents, *query.opponents)]
    shared = symmetric_limit(maps)
    own = [heat_rgba(values, symmetric_limit([values])) for values in maps]
    one = [heat_rgba(values, shared) for values in maps]
    alone = [
        tag for tag in page.all("img", "heat") if not {"own", "one"} & set(tag["class"].split())
    ]
    values = query.attribution.values
    expected = [heat_rgba(values, symmetric_limit([values]))]
    for tags, wanted in (
        (alone, expected),
        (page.all("img", "own"), own),
        (page.all("img", "one"), one),
    ):
        assert len(tags) == len(wanted)
        for tag, colours in zip(tags, wanted, strict=True):
            assert (picture_of(tag["src"]) == colours).all()
    assert not (own[0] == one[0]).all()


def test_the_ends_of_each_scale_are_written(fakes):
    record = fakes.fake_audit(queries=1, each=2, regions=0)
    query = record.queries[0]
    maps = [one.map.values for one in (*query.proponents, *query.opponents)]
    text = Page(render_report(record)).text
    assert f"+{words.number(symmetric_limit([query.attribution.values]), 2)}" in text
    for values in maps:
        assert f"±{words.number(symmetric_limit([values]), 2)}" in text
    assert text.count(f"±{words.number(symmetric_limit(maps), 2)}") >= len(maps)


def test_training_images_share_one_scale_unless_the_reader_wants_each_its_own(page):
    (box,) = [one for one in page.all("input") if one["id"] == "one-scale"]
    assert "checked" in box
    assert "one-scale" in page.all("html")[0]["class"].split()
    style = (TEMPLATES / "style.css").read_text("utf-8")
    assert ":root:not(.one-scale) .one, .one-scale .own { display: none" in style
    assert (
        'classList.toggle("one-scale", oneScale.checked)' in (TEMPLATES / "script.js").read_text()
    )


def test_maps_of_photographs_are_summed_over_cells_and_the_page_says_so(fakes):
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (40, 224, 224, 3), dtype=np.uint8)
    record = fakes.fake_audit(pictures, np.arange(40) % 10, queries=1, each=1, patch=False)
    query, page = record.queries[0], Page(render_report(record))
    cells = query.attribution.values.astype(np.float64).reshape(32, 7, 32, 7).sum(axis=(1, 3))
    first = page.all("img", "heat")[0]
    expected = heat_rgba(cells, symmetric_limit([cells]))
    found = picture_of(first["src"])
    assert found.shape == (32, 32, 4)
    assert np.abs(found.astype(int) - expected).max() <= 4  # a value may round to the next shade
    assert all("smooth" in one["class"].split() for one in page.all("img", "heat"))
    assert page.text.count("summed over cells of 7 \N{MULTIPLICATION SIGN} 7 pixels") == 2
    assert "Maps of large images are summed over cells" in page.text
    assert f"+{words.number(symmetric_limit([cells]), 2)}" in page.text


def test_small_maps_are_not_summed_and_the_page_does_not_say_so(page):
    assert not page.all("img", "smooth")
    assert "summed over cells" not in page.text


def test_settings_of_methods_are_short_beside_the_maps_and_whole_in_the_details(fakes):
    whole = "IntegratedGradients(steps=32, rule='midpoint', baseline=Zero(), tolerance=None)"
    record = fakes.fake_audit(queries=1, each=1)
    query = record.queries[0]
    query = dataclasses.replace(
        query, attribution=dataclasses.replace(query.attribution, method=whole)
    )
    page = Page(render_report(dataclasses.replace(record, queries=(query,))))
    assert "IntegratedGradients(steps=32, baseline=Zero, …)" in page.text
    assert page.text.count(whole) == 1
    assert page.all("dd", "method")[0]["title"] == whole
    run = dataclasses.replace(record.run, settings={"method": whole})
    again = Page(render_report(dataclasses.replace(record, queries=(query,), run=run)))
    assert again.text.count(whole) == 1


def test_a_model_from_a_file_is_called_by_its_last_part(fakes):
    record = fakes.fake_audit(queries=1, each=1, name="/some/where/nets.py:small")
    text = render_report(record)
    assert "<h1>nets.py:small</h1>" in text
    assert "<title>Audit of nets.py:small</title>" in text
    assert Page(text).text.count("/some/where/nets.py:small") == 1


def test_held_norms_are_explained_where_they_are_held(record):
    sentence = "the norms by which the score divides are held constant"
    for settings, said in (
        ({"score": "grad-cos", "hold_weights": True}, True),
        ({"score": "grad-cos", "hold_weights": False}, False),
        ({"score": "grad-dot", "hold_weights": True}, False),
    ):
        run = dataclasses.replace(record.run, settings=settings)
        page = Page(render_report(dataclasses.replace(record, run=run)))
        assert (sentence in page.text) == said


def test_shared_evidence_says_that_it_adds_up_by_construction(record):
    sentence = "that a map adds up to its score is so by construction"
    for name, said in (("shared-evidence", True), ("tfa", False)):
        run = dataclasses.replace(record.run, settings={"training_map": name})
        page = Page(render_report(dataclasses.replace(record, run=run)))
        assert (sentence in page.text) == said


def test_regions_keep_the_order_of_the_record(record):
    first, second = (
        dataclasses.replace(record.regions[0], mass=mass, label=label)
        for mass, label in ((0.1, 1), (0.7, 2))
    )
    text = Page(render_report(dataclasses.replace(record, regions=(first, second)))).text
    assert 0 < text.index("Class “1”") < text.index("Class “2”")


def test_a_map_of_zeros_is_called_that(fakes):
    record = fakes.fake_audit(queries=1, each=0)
    empty = MapRecord(
        values=np.zeros((32, 32), np.float32), method="Gradient()", total=0.0, explained=0.0
    )
    query = dataclasses.replace(record.queries[0], attribution=empty)
    text = Page(render_report(dataclasses.replace(record, queries=(query,)))).text
    assert "Every value is zero: no pixel carries anything." in text


def test_an_audit_that_found_nothing_says_so_without_promising_more(fakes):
    text = Page(render_report(fakes.fake_audit(queries=0, regions=0, suspects=0))).text
    assert "Nothing stands out" in text
    assert "That is no proof that there is nothing." in text
    assert "No test image was audited." in text


def test_without_labels_nothing_is_called_right_or_wrong(fakes):
    record = fakes.fake_audit(queries=2)
    queries = tuple(dataclasses.replace(query, label=None) for query in record.queries)
    page = Page(render_report(dataclasses.replace(record, queries=queries, accuracy=None)))
    assert not page.all("span", "wrong")
    assert not [one for one in page.all("input") if one["id"] == "wrong"]
    assert "not measured: no labels" in page.text


def test_a_region_of_many_images_shows_some_and_counts_the_rest(record):
    images = (*record.training_images, 10**6, 10**6 + 1)
    region = dataclasses.replace(record.regions[0], images=images)
    page = Page(render_report(dataclasses.replace(record, regions=(region,))))
    assert len(page.all("svg", "boxes")) == 6
    assert f"audit.json lists {len(images) - 6} more training images" in page.text


def test_a_region_shows_the_maps_that_show_it_best(fakes):
    record = fakes.fake_audit(queries=2, each=2, regions=1, suspects=0)
    images = sorted({one.index for query in record.queries for one in query.proponents})[:3]
    region = dataclasses.replace(record.regions[0], images=tuple(images), box=(0, 0, 8, 4))

    def marked(inside):
        values = np.full((32, 32), -1.0, np.float32)
        values[:4, :8], values[20:, 20:] = inside, 0.1
        return values

    strengths = dict(zip(images, (0.1, 0.5, 0.2), strict=True))
    queries = tuple(
        dataclasses.replace(
            query,
            proponents=tuple(
                dataclasses.replace(
                    one,
                    map=dataclasses.replace(
                        one.map, values=marked(strengths.get(one.index, 0.0) * (1 + at / 10))
                    ),
                )
                for one in query.proponents
            ),
        )
        for at, query in enumerate(record.queries)
    )
    page = Page(render_report(dataclasses.replace(record, queries=queries, regions=(region,))))
    names = [
        one["data-title"] for one in page.all("button", "frame") if "marked" in one["aria-label"]
    ]
    order = sorted(images, key=lambda index: -strengths[index])
    assert names == [record.training_images[index].name for index in order]
    last = max(
        at for at, query in enumerate(queries) for one in query.proponents if one.index == order[0]
    )
    expected = marked(strengths[order[0]] * (1 + last / 10))
    first = next(one for one in page.all("img", "own"))
    assert (picture_of(first["src"]) == heat_rgba(expected, symmetric_limit([expected]))).all()


def test_how_it_was_made_is_written_down(record, page):
    for expected in (
        record.run.command,
        record.model.fingerprint,
        record.train.fingerprint,
        record.test.fingerprint,
        "GradCos(parameters=all)",
        "torch",
        "2.13.0",
        "1 min 4 s",
        "[0.485, 0.456, 0.406]",
        "truncated after 1 204 bytes",
        record.notes[0],
    ):
        assert expected in page.text


def test_the_page_loads_nothing(record, page):
    for name, attributes in page.tags:
        for source in ("src", "href", "action", "srcset", "data", "poster"):
            value = attributes.get(source)
            assert value is None or value.startswith(("data:", "#")), (name, value)
        assert "style" not in attributes, "the policy forbids it"
        assert not [key for key in attributes if key.startswith("on")]
    style = (TEMPLATES / "style.css").read_text("utf-8")
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"fetch|XMLHttp|import\(|innerHTML", (TEMPLATES / "script.js").read_text())


def test_the_policy_allows_exactly_this_style_and_script(record):
    text = render_report(record)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    policy = policy.replace("&#39;", "'")
    assert "default-src 'none'" in policy
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_no_name_can_smuggle_in_markup(fakes):
    record = fakes.fake_audit(
        queries=2, each=2, suspects=2, classes=tuple(EVIL + str(n) for n in range(10))
    )
    record = dataclasses.replace(
        record,
        model=dataclasses.replace(
            record.model, name=EVIL, fingerprint=EVIL, preprocessing={EVIL: EVIL}
        ),
        train=dataclasses.replace(
            record.train, name=EVIL, fingerprint=EVIL, skipped=((EVIL, EVIL),)
        ),
        test=dataclasses.replace(record.test, name=EVIL, fingerprint=EVIL),
        queries=tuple(dataclasses.replace(one, name=EVIL) for one in record.queries),
        suspect_labels=tuple(dataclasses.replace(one, name=EVIL) for one in record.suspect_labels),
        training_images={
            index: dataclasses.replace(one, name=EVIL)
            for index, one in record.training_images.items()
        },
        run=dataclasses.replace(
            record.run,
            command=EVIL,
            settings={EVIL: EVIL},
            versions={EVIL: EVIL},
            created=EVIL,
            seconds={EVIL: 1.0},
        ),
        notes=(EVIL,),
    )
    page = Page(render_report(record))
    assert len(page.all("script")) == 1
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert "alert(1)" in page.text
    assert "49" not in page.text.replace("{{7*7}}", "").split("alert(1)")[1][:12]


def test_a_file_name_that_is_no_unicode_is_written_out(fakes, tmp_path):
    record = fakes.fake_audit(queries=1, each=1)
    query = dataclasses.replace(record.queries[0], name="caf\udce9.png")
    write_report(dataclasses.replace(record, queries=(query,)), tmp_path / "report.html")
    assert r"caf\udce9.png" in (tmp_path / "report.html").read_text("utf-8")


def test_identifiers_are_unique_and_links_lead_somewhere(page):
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for link in page.all("a"):
        assert link["href"].removeprefix("#") in identifiers
    for _, attributes in page.tags:
        for key in ("aria-labelledby", "for"):
            assert attributes.get(key, identifiers[0]) in identifiers


def test_pictures_buttons_and_sliders_have_names_for_those_who_cannot_see_them(page):
    for image in page.all("img"):
        assert "alt" in image
        assert image["alt"] or "heat" in image["class"]
    for frame in page.all("button", "frame"):
        assert frame["aria-label"].startswith("Enlarge: ")
    (slider,) = [one for one in page.all("input") if one["type"] == "range"]
    assert slider["aria-label"] == "Opacity of the maps"
    assert page.all("html")[0]["lang"] == "en"


def test_small_pictures_show_their_pixels_and_large_ones_are_smooth(fakes):
    small = Page(render_report(fakes.fake_audit(queries=1, each=1)))
    assert len(small.all("button", "pixelated")) == len(small.all("button", "frame"))
    pictures = np.zeros((40, 120, 120, 3), np.uint8)
    labels = np.arange(40) % 10
    large = Page(render_report(fakes.fake_audit(pictures, labels, queries=1, each=1)))
    assert not large.all("button", "pixelated")


def test_large_photographs_are_shrunk(fakes):
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (40, 400, 500, 3), dtype=np.uint8)
    record = fakes.fake_audit(pictures, np.arange(40) % 10, queries=2, each=2, patch=False)
    page = Page(render_report(record))
    assert max(max(picture_of(one["src"]).shape) for one in page.all("img", "picture")) == 320
    assert max(max(picture_of(one["src"]).shape) for one in page.all("img", "heat")) <= 33


def test_an_explanation_has_its_page(fakes, tmp_path):
    record = fakes.fake_explanation(3)
    write_explanation(record, tmp_path / "explanation.html")
    text = (tmp_path / "explanation.html").read_text("utf-8")
    page = Page(text)
    assert text == render_explanation(record)
    assert len(page.all("article", "query")) == 3
    assert len(page.all("img", "heat")) == 3
    assert len(page.all("script")) == 1
    for name in record.names:
        assert name in page.text
    assert "gap 0.42 %" in page.text
    assert not page.all("img", "one")


def test_an_explanation_of_nothing_is_a_page_too(fakes):
    assert "No image was explained." in Page(render_explanation(fakes.fake_explanation(0))).text


def test_one_prediction_becomes_a_picture_file(record):
    image = Image.open(io.BytesIO(figure_png(record, 0, proponents=2)))
    wider = Image.open(io.BytesIO(figure_png(record, 0, proponents=3)))
    assert image.format == "PNG"
    assert image.width < wider.width
    with pytest.raises(SettingError, match="from 0 to 3"):
        figure_png(record, 4)


def test_an_inconsistent_record_is_refused(record):
    with pytest.raises(RecordError, match="training_images"):
        render_report(dataclasses.replace(record, training_images={}))


def test_a_place_that_cannot_be_written_is_named(record, tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(record, tmp_path / "missing" / "report.html")
    assert not list(tmp_path.iterdir())


def luminance(colour):
    share = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(light @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_text_has_the_contrast_that_wcag_aa_asks_for(theme):
    style = (TEMPLATES / "style.css").read_text("utf-8")
    named = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    colours = {name: pair[theme] for name, *pair in named}
    texts = [
        (ink, paper)
        for ink in ("ink", "soft", "accent", "for", "against")
        for paper in ("page", "surface", "sunken")
    ]
    texts += [(name, f"{name}-back") for name in ("right", "wrong", "mark")]
    texts.append(("page", "accent"))  # of a button
    for ink, paper in texts:
        assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
    for paper in ("page", "surface"):  # the edges of fields
        assert contrast(colours["edge"], colours[paper]) >= 3, paper


def test_pages_need_no_torch():
    script = "import sys, whence.viewer; sys.exit('torch' in sys.modules)"
    source = str(Path(whence.report.__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": source}, capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr.decode()


def test_an_audit_is_told_in_five_sentences_with_figures(fakes):
    record = fakes.fake_audit(queries=4, each=3, suspects=20, regions=2)
    first, second, third, *_ = summary_sentences(record)
    wrong = sum(query.label != query.prediction for query in record.queries)
    assert first.replace("\N{NARROW NO-BREAK SPACE}", " ") == (
        f"The network gets 91.2 % of 500 test images right; 4 test images were traced, {wrong} of "
        f"which it gets wrong."
    )
    best = max(record.regions, key=lambda one: one.ratio)
    assert f"class “{record.model.classes[best.label]}”" in second
    assert words.percent(best.mass, 0) in second
    assert third.startswith("20 training labels look wrong")
    assert record.suspect_labels[0].name in third
    bare = dataclasses.replace(record, regions=(), suspect_labels=(), accuracy=None)
    assert len(summary_sentences(bare)) == 5
    assert "nobody knows" in summary_sentences(bare)[0]
    page = Page(render_report(record))
    assert len(page.all("ol", "brief")) == 1
    assert re.sub(r"\s+", " ", first) in page.text


def test_maps_that_agree_and_maps_that_do_not_are_told_apart():
    generator = np.random.default_rng(0)
    one, other = generator.standard_normal((2, 20, 20))
    assert rank_correlation(one, one) == pytest.approx(1)
    assert rank_correlation(one, -one) == pytest.approx(-1)
    assert abs(rank_correlation(one, other)) < 0.2
    assert rank_correlation(one, np.zeros((20, 20))) == 0
    ties = np.round(one)
    expected = stats.spearmanr(ties.ravel(), other.ravel()).statistic
    assert rank_correlation(ties, other) == pytest.approx(expected)
    assert agreement_of(one, one).top == words.percent(1, 0)
