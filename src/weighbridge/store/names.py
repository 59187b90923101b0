"""Names for runs that got none: date, time and two words, so that people can tell them apart and say them aloud."""

from __future__ import annotations

import secrets
import time
from typing import Final

_HOW: Final = (
    "amber ample brisk bright calm clear cosy crisp deep early even fair fine fleet gentle glad golden grand green "
    "hardy jolly keen kind late light lively lucky mellow merry mild neat noble north plain proud quick quiet rapid "
    "ready royal sharp silent silver smooth snowy solid south spry steady still stout sunny swift tidy true vivid "
    "warm wide wild wise"
)
_WHO: Final = (
    "acorn alder aspen badger barley beech birch brook canyon cedar clover comet coral crane dune eagle elm falcon "
    "fern finch forest garnet grove harbor hazel heron hill island ivy jasper lake lark laurel linden lynx maple "
    "marten meadow moor oak olive osprey otter pebble pine plover quarry raven reef ridge river robin rowan sparrow "
    "spruce stone swan thistle tiger valley willow wren"
)


def new_name() -> str:
    """Such as "20261124-031500-calm-otter". Leaves every seeded generator as it is."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.choice(_HOW.split())}-{secrets.choice(_WHO.split())}"
