"""The tests' small Hub, answering for models instead of data sets."""

import re
import sys
from pathlib import Path


sys.path.append(str(Path(__file__).parents[1] / "data" / "shards"))

from local_hub import LocalHub  # noqa: E402


class ModelHub(LocalHub):
    """`with ModelHub(folder, monkeypatch) as hub:` makes huggingface_hub talk to it, with its cache in `folder`."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        super().__init__()
        bound = self.server.RequestHandlerClass

        class ModelHandler(bound):  # type: ignore[misc, valid-type]
            def answer(self, method: str) -> None:
                self.path = re.sub(r"^/api/models/", "/api/datasets/", self.path)
                self.path = re.sub(r"^/(?!datasets/|api/)([\w.-]+/[\w.-]+/resolve/)", r"/datasets/\1", self.path)
                super().answer(method)

        self.server.RequestHandlerClass = ModelHandler
        constants = "huggingface_hub.constants."
        monkeypatch.setattr(constants + "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants + "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants + "HF_HOME", str(folder))
        monkeypatch.setattr(constants + "HF_HUB_CACHE", str(folder / "hub"))
        monkeypatch.setattr(constants + "ENDPOINT", self.url)
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants + "HUGGINGFACE_CO_URL_TEMPLATE", template)
