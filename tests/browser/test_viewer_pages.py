"""The viewer in a real browser: from a picture to its training images, and to a verdict."""

import io

import pytest
from PIL import Image

from whence.results.findings_file import load_findings


def picture_file(name="a digit.png", side=40):
    content = io.BytesIO()
    Image.new("RGB", (side, side), (200, 40, 90)).save(content, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": content.getvalue()}


def scrolls_sideways(tab):
    return tab.evaluate("document.documentElement.scrollWidth > innerWidth")


def test_from_an_uploaded_picture_to_its_map_and_its_training_images(tab, viewer):
    _, address = viewer
    tab.goto(f"{address}/")
    tab.click("text=Explain a picture")
    tab.set_input_files("[name=picture]", files=[picture_file()])
    tab.fill("[name=target]", "7")
    tab.fill("[name=versus]", "2")
    tab.select_option("[name=method]", "input-x-gradient")
    tab.click("form.ask button")
    tab.wait_for_url("**/result/*")
    assert tab.inner_text("h1") == "a digit.png"
    assert tab.locator("article.query img.heat").count() >= 1
    tab.click("text=Find them")
    tab.wait_for_selector("#training .card")
    assert 1 <= tab.locator("#training .card").count() <= 6


def test_two_methods_and_two_networks_stand_side_by_side(tab, viewer):
    _, address = viewer
    tab.goto(f"{address}/pick?from=test")
    assert tab.locator(".picks li").count() == 48
    tab.click(".picks li:nth-child(5) a")
    tab.select_option("[name=method]", "gradient")
    tab.select_option("[name=method2]", "grad-cam")
    tab.select_option("[name=network2]", "again")
    tab.click("form.ask button")
    tab.wait_for_url("**/result/*")
    assert tab.locator("article.query").count() == 2
    assert tab.inner_text("#map-2-title") == "grad-cam, again"
    assert "rank correlation" in tab.inner_text("#images")
    tab.click("text=Ask something else")
    assert tab.input_value("[name=method2]") == "grad-cam"


def test_an_accepted_finding_changes_the_file_and_keeps_the_others(tab, viewer):
    folder, address = viewer
    tab.goto(f"{address}/findings")
    card = tab.locator("#shortcut-1")
    card.locator("[name=box]").fill("0, 0, 5, 5")
    card.locator("[name=note]").fill('it is a "patch" <script>alert(1)</script>')
    card.locator("[value=accepted]").click()
    tab.wait_for_url("**/findings#shortcut-1")
    first, second = load_findings(folder)
    assert (first.verdict, first.box) == ("accepted", (0, 0, 5, 5))
    assert first.note == 'it is a "patch" <script>alert(1)</script>'
    assert second.verdict == "open"
    assert tab.locator("#shortcut-1 header .badge").inner_text() == "accepted"
    tab.click("#images-1 [value=rejected]")
    tab.wait_for_url("**/findings#images-1")
    assert [one.verdict for one in load_findings(folder)] == ["accepted", "rejected"]


def test_an_impossible_box_is_a_page_that_says_so_and_changes_nothing(tab, viewer):
    folder, address = viewer
    before = (folder / "findings.toml").read_bytes()
    tab.goto(f"{address}/findings")
    tab.locator("#shortcut-1 [name=box]").fill("0, 0, 99, 5")
    tab.click("#shortcut-1 [value=accepted]")
    assert "99" in tab.inner_text(".problem")
    assert (folder / "findings.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty"), (b"no picture", "no picture"), (b"\x89PNG\r\n\x1a\n", "no")],
)
def test_a_broken_picture_is_a_page_that_says_so(tab, viewer, content, says):
    _, address = viewer
    name = "<img src=x onerror=alert(1)>.png"
    tab.goto(f"{address}/explain")
    tab.set_input_files(
        "[name=picture]", files=[{"name": name, "mimeType": "image/png", "buffer": content}]
    )
    tab.click("form.ask button")
    assert says in tab.inner_text(".problem")
    assert "onerror" in tab.inner_text(".problem")


def test_the_main_path_needs_no_script(browser, viewer):
    folder, address = viewer
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"{address}/explain?from=test&place=3")
    tab.click("button[type=submit]")
    tab.wait_for_url("**/result/*")
    assert tab.locator("article.query").count() == 1
    tab.goto(f"{address}/findings")
    tab.click("#images-1 [value=accepted]")
    tab.wait_for_url("**/findings#images-1")
    assert load_findings(folder)[1].verdict == "accepted"
    context.close()


def test_a_form_can_be_filled_in_and_sent_with_the_keyboard_alone(tab, viewer):
    _, address = viewer
    tab.goto(f"{address}/explain?from=test&place=3")
    names = []
    for _ in range(30):
        tab.keyboard.press("Tab")
        names.append(tab.evaluate("document.activeElement.name || document.activeElement.type"))
        if names[-1] == "submit":
            break
    assert {"picture", "target", "versus", "method", "method2"} <= set(names)
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/result/*")


@pytest.mark.parametrize(
    "path", ["/", "/findings", "/explain?from=test&place=3", "/pick?from=test"]
)
def test_pages_fit_a_narrow_screen(tab, viewer, path):
    _, address = viewer
    tab.set_viewport_size({"width": 360, "height": 740})
    tab.goto(f"{address}{path}")
    assert not scrolls_sideways(tab)


def test_another_site_can_neither_read_nor_write(tab, viewer):
    folder, address = viewer
    before = (folder / "findings.toml").read_bytes()
    port = address.rpartition(":")[2]
    assert tab.request.get(f"{address}/", headers={"Host": f"evil.example:{port}"}).status == 403
    # A foreign page sends a form: the browser itself says where it comes from.
    tab.set_content(
        f'<form method="post" action="{address}/findings/shortcut-1">'
        '<input name="verdict" value="accepted"><button>send</button></form>'
    )
    tab.click("button")
    tab.wait_for_url(f"{address}/**")
    assert "nothing was done" in tab.inner_text("body")
    assert (folder / "findings.toml").read_bytes() == before
