"""A backend that answers from a list, and the answers of a good conversation about a chair."""

import json

import numpy as np
from PIL import Image

from omni123_hf.data.captioning.backends import Completion
from omni123_hf.data.captioning.conversation import CaptionRequest, ConversationCaptioner, ConversationSettings
from omni123_hf.data.captioning.result import Metadata
from omni123_hf.data.captioning.stages import CaptionCounts


VIEWS = ("front", "top")
MEDIUM = "A wooden chair with four straight legs, a flat square seat and a tall slatted back."
LONG = (
    "A plain wooden chair with a flat square seat on four straight legs joined by thin stretchers. The tall back has "
    "five vertical slats between two rounded posts, topped by a slightly curved rail. All parts are of the same warm brown "
    "oak with a visible grain, a matt finish and softly rounded edges that show light wear."
)
ANALYSIS = {
    "views": [
        {"view": "front", "description": "A seat on two legs, with a slatted back."},
        {"view": "top", "description": "A square seat."},
    ],
    "orientation": "It stands upright, the back at the rear.",
    "appearance": "Brown wood.",
    "geometry": "Straight members.",
    "function": "Sitting.",
    "origin": "A household.",
}
CAPTIONS = {"contradictions": [], "subject": "chair", "category": "furniture", "long": [LONG], "medium": [MEDIUM]}
SHORT = {"short": ["wooden chair", "old oak chair", "Chair, slatted back"]}


def picture(shade: int = 90, size: int = 32) -> Image.Image:
    pixels = np.full((size, size, 3), 255, dtype=np.uint8)
    pixels[size // 4 : -size // 4, size // 4 : -size // 4] = (shade, 60, 30)
    return Image.fromarray(pixels)


def chair_request(asset_id: str = "test/chair", metadata: Metadata | None = None) -> CaptionRequest:
    return CaptionRequest(
        asset_id, {name: picture(90 + 20 * i) for i, name in enumerate(VIEWS)}, metadata or Metadata()
    )


class ScriptedBackend:
    """Gives the listed replies in turn (objects become JSON) and remembers what it was asked."""

    model_id = "scripted"

    def __init__(self, *replies):
        self.replies = list(replies)
        self.asked = []

    def complete(self, messages, schema, sampling):
        self.asked.append((list(messages), schema, sampling))
        reply = self.replies.pop(0)
        if isinstance(reply, Completion):
            return reply
        text = reply if isinstance(reply, str) else json.dumps(reply)
        return Completion(text, "stop", 100, 10)


def chair_captioner(backend) -> ConversationCaptioner:
    """Asks for as many captions as the answers above hold."""
    return ConversationCaptioner(backend, settings=ConversationSettings(CaptionCounts(short=3, medium=1, long=1)))
