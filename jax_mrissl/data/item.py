"""One image of a raw file, and what is decided about it."""

import dataclasses
import math

from jax_mrissl.data.inventory import RawFile
from jax_mrissl.data.records import Row
from jax_mrissl.data.scan import SliceFacts
from jax_mrissl.data.spool import Spool


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One image of a raw file, kept or not; a row of the private manifest.

    Attributes:
        file_id: keyed hash of its file's bytes and its place among equal files.
        file: which raw file, by place in the list.
        facts: of the image; None for a file that cannot be read.
        reason: why it is not kept; '' if it is.
        detail: more on that, private.
        split, label, target, position, site: as stored.
        subject: who is on it, as the raw files say it: private.
        group: the keyed hash of that.
        windows: the values that become 0 and 255; (): it is a picture.
        levels: as in `Row`.
    """

    file_id: str
    file: int
    facts: SliceFacts | None
    reason: str = ''
    detail: str = ''
    split: str = ''
    label: int = -1
    target: float = math.nan
    position: float = math.nan
    site: str = ''
    subject: str = ''
    group: str = ''
    windows: tuple[tuple[float, float], ...] = ()
    levels: tuple[float, ...] = ()

    def row(self, raw: RawFile, spool: Spool | None) -> Row:
        """Gives what is needed to write its record; from its raw file without spool."""
        assert self.facts
        return Row(
            file=str(raw.file),
            frame=self.facts.frame,
            windows=self.windows,
            levels=self.levels,
            label=self.label,
            target=self.target,
            group=self.group,
            position=self.position,
            site=self.site,
            source=raw.part,
            file_id=self.file_id,
            pixel_sha256=self.facts.pixel_sha256,
            spool=str(spool.path_of(self.file)) if spool else '',
            place=self.facts.place,
        )
