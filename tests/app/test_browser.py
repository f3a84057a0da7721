"""End to end in headless Chromium: a prompt, a picture, a rendered model, an edit, a download, and not one request elsewhere;
previews and Cancel; loading the page again, and a second tab.

`OMNI123_SCREENSHOTS=docs/images` writes the documentation's pictures; `OMNI123_CHROMIUM` names another browser.
"""

import io
import os
import shutil
import threading
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import trimesh
from app_server import extras, until
from PIL import Image


pytest.importorskip("gradio", minversion="6.0", reason="the app needs the extra `app`")
sync_api = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")

from omni123_hf.app.build_app import serve  # noqa: E402
from omni123_hf.app.jobs import Job  # noqa: E402
from omni123_hf.pipelines import load_pipeline  # noqa: E402


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PROMPT = "a round wooden table with three legs"
WAIT = 200_000
# A coarse grid: what is tested is the way, not the surface.
RESOLUTION = 32


@pytest.fixture(scope="module")
def browser():
    path = os.environ.get("OMNI123_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed, and OMNI123_CHROMIUM is not set")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield running
        running.close()


@pytest.fixture(scope="module")
def server():
    with serve(load_pipeline("omni123-mini"), "omni123-mini", grace=0.2) as running:
        yield running


def edit_twice_and_undo(page, first, second):
    """From the shape that was generated: two edits, one after the other, and back to the first."""
    page.click("#generate-edit")
    wait_for_text(page, "#edit-status", "State 0 of 0")
    for number, instruction in enumerate((first, second), 1):
        page.fill("#edit-instruction textarea", instruction)
        page.click("#edit-start")
        wait_for_text(page, "#edit-status", f"State {number} of {number}")
    page.click("#edit-undo")
    wait_for_text(page, "#edit-status", "State 1 of 2")


@pytest.mark.slow
def test_from_a_prompt_to_an_edited_mesh(browser, server, tmp_path):
    requests, problems = [], []
    page = browser.new_page(viewport={"width": 1360, "height": 900}, accept_downloads=True)
    page.set_default_timeout(WAIT)
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(server.url)

    for tab in ("Edit", "Generate"):
        page.get_by_role("tab", name=tab, exact=True).click()
        set_number(page, "Resolution", RESOLUTION)
    page.fill("#generate-prompt textarea", PROMPT)
    page.click("#generate-start")
    wait_for_text(page, "#generate-status", "Done in")
    picture = page.locator("#generate-picture img").first
    picture.wait_for()
    assert page.evaluate("image => image.complete && image.naturalWidth > 0", picture.element_handle())
    assert "Watertight" in page.inner_text("#generate-facts")
    wait_for_pixels(page, "#generate-model canvas")
    screenshot(page, "app_generate")
    mesh, facts = downloaded(page, "#generate-glb", tmp_path)
    assert len(mesh.faces) and facts["prompt"] == PROMPT
    assert facts["model"]["revision"] == server.service.models.revision

    edit_twice_and_undo(page, "make it taller", "add a second shelf")
    page.locator("#edit-history label").nth(2).click()
    wait_for_text(page, "#edit-status", "State 2 of 2")
    assert "add a second shelf" in page.inner_text("#edit-history")
    assert "of the volume changed" in page.inner_text("#edit-facts") or "changed nothing" in page.inner_text(
        "#edit-facts"
    )
    wait_for_pixels(page, "#edit-model canvas")
    screenshot(page, "app_edit")
    mesh, facts = downloaded(page, "#edit-glb", tmp_path)
    assert len(mesh.faces) and facts["edit_path"] == ["make it taller", "add a second shelf"]

    hosts = {urlsplit(url).hostname for url in requests if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"} and not problems
    folder = server.service.sessions.root
    assert list(folder.rglob("*.glb"))
    page.close()
    until_gone(folder)


@pytest.fixture
def balls(tiny_pipeline, monkeypatch):
    """A server whose shapes are balls: random weights give no reliable surface. Here everything is quick but the browser."""
    monkeypatch.setattr(
        "omni123_hf.modeling.modeling_shape_tokenizer.Omni123ShapeTokenizer.query",
        lambda self, latents, queries: 0.7 - queries.norm(dim=-1),
    )
    with serve(tiny_pipeline, "tiny", grace=30.0) as running:
        yield running


@pytest.fixture
def seen(monkeypatch):
    """A job waits at its preview until this is set: however slow the browser is, it can look at it."""
    event, step = threading.Event(), Job.on_step

    def held(job, *arguments):
        step(job, *arguments)
        if job.preview is not None:
            event.wait(WAIT / 1000)

    monkeypatch.setattr(Job, "on_step", held)
    yield event
    event.set()


@pytest.mark.slow
def test_previews_and_cancel(browser, balls, seen):
    requests, problems = [], []
    page = browser.new_page(viewport={"width": 1360, "height": 900})
    page.set_default_timeout(WAIT)
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(balls.url)

    def files() -> list[Path]:
        return list(balls.service.sessions.root.rglob("preview_*.glb"))

    def asked(part: str) -> bool:
        page.wait_for_timeout(50)
        return any(part in url for url in requests)

    # Off at first: no preview comes. The result is what Cancel leads back to.
    page.fill("#generate-prompt textarea", PROMPT)
    page.click("#generate-start")
    wait_for_text(page, "#generate-status", "Done in")
    wait_for_pixels(page, "#generate-model canvas")
    assert not asked("/preview_")
    facts = page.inner_text("#generate-facts")

    for cancels in (True, False):
        requests.clear()
        set_number(page, "Preview every N tokens", 4)
        page.click("#generate-start")
        until(lambda: asked("/preview_20.glb"))
        wait_for_pixels(page, "#generate-model canvas")
        assert "shape tokens 20 of 24" in page.inner_text("#generate-status") and len(files()) == 1
        requests.clear()
        if cancels:
            page.click("#generate-cancel")
            wait_for_text(page, "#generate-status", "Cancelled.")
        seen.set()
        if not cancels:
            wait_for_text(page, "#generate-status", "Done in")
        # The viewer shows what facts and downloads belong to.
        until(lambda: asked("_seed0.glb"))
        wait_for_pixels(page, "#generate-model canvas")
        until(lambda: page.wait_for_timeout(50) or not files())
        assert page.inner_text("#generate-facts") == facts
        seen.clear()
    assert not problems
    page.close()


@pytest.mark.slow
def test_a_page_that_is_loaded_again_keeps_its_tree_and_another_tab_has_its_own(browser, balls):
    context = browser.new_context(viewport={"width": 1360, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto(balls.url)
    page.fill("#generate-prompt textarea", PROMPT)
    page.click("#generate-start")
    wait_for_text(page, "#generate-status", "Done in")
    edit_twice_and_undo(page, "make it taller", "add a handle")
    history = page.inner_text("#edit-history")

    page.reload()
    wait_for_text(page, "#generate-status", "Done in")
    wait_for_pixels(page, "#generate-model canvas")
    page.get_by_role("tab", name="Edit", exact=True).click()
    wait_for_text(page, "#edit-status", "State 1 of 2")
    assert page.inner_text("#edit-history") == history and "add a handle" in history
    wait_for_pixels(page, "#edit-model canvas")

    # Opened from the page itself, another tab begins with a copy of its storage.
    with context.expect_page() as opened:
        page.evaluate("window.open(location.href)")
    other = opened.value
    other.set_default_timeout(WAIT)
    other.get_by_role("tab", name="Edit", exact=True).click()
    wait_for_text(other, "#edit-status", "No shape yet")
    assert other.evaluate("sessionStorage.length") and "start" not in other.inner_text("#edit-history")
    other.close()

    # The first goes on where it was, and once more after another reload.
    page.fill("#edit-instruction textarea", "make it wider")
    page.click("#edit-start")
    wait_for_text(page, "#edit-status", "State 3 of 3")
    page.reload()
    page.get_by_role("tab", name="Edit", exact=True).click()
    wait_for_text(page, "#edit-status", "State 3 of 3")
    assert "make it wider" in page.inner_text("#edit-history")
    context.close()


def set_number(page, label: str, value: int) -> None:
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.get_by_role("button", name="More settings").click()
    box = panel.get_by_label(f"number input for {label}")
    box.fill(str(value))
    box.press("Tab")
    panel.get_by_role("button", name="More settings").click()


def wait_for_text(page, selector: str, text: str) -> None:
    """Waits for it, and fails at once when the status line tells an error."""
    page.wait_for_function(
        "([selector, text]) => { const line = document.querySelector(selector); "
        "return line && (line.innerText.includes(text) || line.querySelector('.bad')); }",
        arg=[selector, text],
    )
    assert text in page.inner_text(selector)


def wait_for_pixels(page, selector: str) -> None:
    """Waits until the canvas shows something: more than its background, over more than a hundredth of it."""
    canvas = page.locator(selector).first
    canvas.wait_for()
    canvas.scroll_into_view_if_needed()
    for _ in range(240):
        shown = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")).astype(int)
        inner = shown[shown.shape[0] // 8 : -shown.shape[0] // 8, shown.shape[1] // 8 : -shown.shape[1] // 8]
        if (np.abs(inner - inner[0, 0]).max(axis=-1) > 24).mean() > 0.01:
            return
        page.wait_for_timeout(500)
    raise AssertionError("the viewer stays blank")


def downloaded(page, selector: str, folder: Path) -> tuple[trimesh.Trimesh, dict]:
    with page.expect_download() as waiting:
        page.click(selector)
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    assert path.suffix == ".glb"
    return trimesh.load(path, force="mesh"), extras(path)


def screenshot(page, name: str) -> None:
    folder = os.environ.get("OMNI123_SCREENSHOTS")
    if folder:
        page.evaluate("window.scrollTo(0, 0)")
        picture = Image.open(io.BytesIO(page.screenshot()))
        picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(
            Path(folder) / f"{name}.png", optimize=True
        )


def until_gone(folder: Path) -> None:
    import time

    for _ in range(200):
        if not list(folder.rglob("*.glb")):
            return
        time.sleep(0.1)
    raise AssertionError("files of a closed page are still there")
