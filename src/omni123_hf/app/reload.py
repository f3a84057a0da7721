"""A page that is loaded again keeps its tree of edits and its results; another tab of the browser has its own.

Gradio gives a page a new hash whenever it is loaded. So the browser keeps a secret for each of its tabs (`sessionStorage`, which
other tabs do not see), and the server finds the session by it (`Sessions.resume`). Duplicating a tab copies that storage: a copy
is told by the mark of leaving, which only a page that was really left has set.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from omni123_hf.app.panels import PRIVATE
from omni123_hf.app.service import Service


@dataclass(frozen=True)
class Again:
    """A tab of the page. name: as in `Session.viewed`. update: its state for a request, but for the viewer. outputs: what that changes."""

    name: str
    tab: gr.Tab
    update: Callable[[gr.Request], list[Any]]
    outputs: list[Any]
    model: gr.Model3D


PAGE_SECRET = """() => {
  const name = "omni123-page", left = "omni123-left";
  let page = null;
  try {
    if (sessionStorage.getItem(left) !== null) page = sessionStorage.getItem(name);
    sessionStorage.removeItem(left);
  } catch (error) { console.info("no storage: a page that is loaded again begins anew", error); }
  page ??= Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    sessionStorage.setItem(name, page);
    addEventListener("pagehide", () => sessionStorage.setItem(left, "yes"));
    // Back from the browser's cache the page is the same one, still open.
    addEventListener("pageshow", (event) => { if (event.persisted) sessionStorage.removeItem(left); });
  } catch (error) { console.info("no storage", error); }
  return [page];
}"""


def build(service: Service, app: gr.Blocks, tabs: list[Again]) -> None:
    """When the page is loaded, every tab shows what it showed before, where this page was there before."""
    page = gr.Textbox(visible=False)

    def load(page: Any, request: gr.Request) -> list[Any]:
        session = service.sessions.resume(page, request.session_hash)
        updates = [update for again in tabs for update in again.update(request)]
        session.unseen = {again.name for again in tabs if session.viewed.get(again.name) is not None}
        return updates

    def show(name: str) -> Callable[[gr.Request], Any]:
        def mesh(request: gr.Request) -> Any:
            session = service.sessions.get(request.session_hash)
            if name not in session.unseen:
                return gr.skip()
            session.unseen.discard(name)
            return str(session.viewed[name])

        return mesh

    outputs = [component for again in tabs for component in again.outputs]
    options: dict[str, Any] = {"queue": False, "show_progress": "hidden", **PRIVATE}
    loaded = app.load(load, page, outputs, js=PAGE_SECRET, **options)
    # The first tab is in sight. A viewer that gets its mesh before its tab was ever opened stays empty.
    loaded.then(show(tabs[0].name), None, tabs[0].model, **options)
    for again in tabs[1:]:
        again.tab.select(show(again.name), None, again.model, **options)
