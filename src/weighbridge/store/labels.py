"""What people say of a run: tags, a note, whether it is put away, and which findings they have judged and muted.

One small file in the run's folder, `labels.json`.

A run without the file has the tags that `weighbridge.init(tags=...)` gave it. The file takes their place as a whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from weighbridge.errors import BadInput, WeighbridgeError
from weighbridge.records import FORMAT_VERSION
from weighbridge.store.checked import read_sealed, write_sealed
from weighbridge.store.status import require_run

LABELS_FILE: Final = "labels.json"
MOST_TAGS: Final = 32
TAG_LENGTH: Final = 40
NOTE_LENGTH: Final = 4_000
MOST_MUTED: Final = 1_000
REASON_LENGTH: Final = 400


@dataclass(frozen=True, slots=True)
class Labels:
    """Raises BadInput for a tag that is empty, has spaces or is too long, and for a note or reason that is too long.

    muted: keys of findings ("dead-units at 0"), each with the reason; they may be found or not
    """

    tags: tuple[str, ...] = ()
    note: str = ""
    is_archived: bool = False
    muted: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", tuple(dict.fromkeys(tag.strip() for tag in self.tags)))
        for tag in self.tags:
            if not tag or len(tag) > TAG_LENGTH or any(c.isspace() or not c.isprintable() or c in '":,' for c in tag):
                raise BadInput(
                    f"{tag!r} is no tag: one word of at most {TAG_LENGTH} characters, without quotes, colon and comma."
                )
        if len(self.tags) > MOST_TAGS:
            raise BadInput(f"{len(self.tags)} tags are too many; a run has {MOST_TAGS} at most.")
        if len(self.note) > NOTE_LENGTH:
            raise BadInput(f"The note has {len(self.note):,} characters; {NOTE_LENGTH:,} are the most.")
        object.__setattr__(self, "muted", tuple({key: reason.strip() for key, reason in self.muted}.items()))
        if len(self.muted) > MOST_MUTED:
            raise BadInput(f"{len(self.muted):,} muted findings are too many; {MOST_MUTED:,} are the most.")
        for key, reason in self.muted:
            if not key or len(reason) > REASON_LENGTH:
                raise BadInput(f"The reason for {key!r} has {len(reason):,} characters; {REASON_LENGTH} are the most.")

    def changed(
        self,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        note: str | None = None,
        is_archived: bool | None = None,
        mute: Mapping[str, str] | None = None,
        unmute: Iterable[str] = (),
    ) -> Labels:
        """With these changes; None leaves as it is. mute: reasons by key of finding."""
        gone, heard = set(remove), set(unmute)
        return dataclasses.replace(
            self,
            tags=(*(tag for tag in self.tags if tag not in gone), *add),
            note=self.note if note is None else note,
            is_archived=self.is_archived if is_archived is None else is_archived,
            muted=(*((key, why) for key, why in self.muted if key not in heard), *(mute or {}).items()),
        )


def read_labels(run: Path, about: Mapping[str, Any] | None = None) -> Labels:
    """What stands in the file; else what the run was born with. `about`: as RunRecord.about, where it is known already.

    Raises NotARun, CorruptRun or NewerFormat.
    """
    try:
        said = read_sealed(run / LABELS_FILE)
    except FileNotFoundError:
        return born(require_run(run)["info"] if about is None else about)
    return Labels(tuple(said["tags"]), said["note"], said["archived"], tuple((said.get("muted") or {}).items()))


def shown_labels(run: Path) -> Labels:
    """The same for lists: of a run whose file is damaged none (`verify` says so)."""
    try:
        return read_labels(run)
    except WeighbridgeError:
        return Labels()


def born(about: Mapping[str, Any]) -> Labels:
    """The tags given to `init`, as far as they can be tags: spaces become dashes, what is left over is dropped."""
    fit: list[str] = []
    for word in about.get("tags") or ():
        try:
            fit += Labels(("-".join(str(word).split()),)).tags
        except BadInput:
            continue
    return Labels(tuple(fit[:MOST_TAGS]))


def write_labels(run: Path, labels: Labels) -> None:
    """Put them into the run's folder, in one step. Raises WeighbridgeError where it may not be written."""
    content = {"format": FORMAT_VERSION, "tags": labels.tags, "note": labels.note, "archived": labels.is_archived}
    content |= {"muted": dict(labels.muted)} if labels.muted else {}
    try:
        write_sealed(run / LABELS_FILE, content, replace=True)
    except OSError as error:
        raise WeighbridgeError(f"Nothing was changed: {run} cannot be written ({error.strerror}).") from error
