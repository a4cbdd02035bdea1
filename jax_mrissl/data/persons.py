"""Who is on an image, by ids that studies have published: OASIS-1 and ADNI.

The Kaggle set of Alzheimer slices is made of sessions of OASIS-1, which its publisher
does not say. `alzheimer_mri_sessions.csv` is the link, by the pixels of slice 19 of
each subject, so that a copy under other names is linked, too. Found in 2026 by this
project: 170 groups have, turned by 180 degrees, a slice that equals the axial picture
of one session (correlation above 0.995, the runner-up below 0.95, one to one: 'exact');
30 were matched with the volumes (registration score of at least 0.92, 0.25 above the
next: 'matched'). The CDR of OASIS-1's own table agrees with the class for all 200.
"""

import csv
import functools
import importlib.resources
import re

import numpy as np

from jax_mrissl.data.manifest import Manifest
from jax_mrissl.data.prepared import PreparedSet

# The first bracket is the person, the whole match the session.
_PUBLISHED = re.compile(r'(OAS1_\d{4})_MR\d|(\d{3}_S_\d{4,5})')


def sessions(prepared: PreparedSet, manifest: Manifest | None) -> np.ndarray:
    """Gives each image's published session, text [n]; '' where none is known.

    Args:
        prepared: the images.
        manifest: its private one, whose paths may hold the session; None: there is
            none, and only the link by pixels is left.
    """
    found = np.full(len(prepared), '', 'U16')
    linked = _link()
    by_group = {
        group: linked[sha256]
        for group, sha256 in zip(prepared.groups, prepared.pixel_sha256, strict=True)
        if sha256 in linked
    }
    for row, group in enumerate(prepared.groups):
        if session := by_group.get(group):
            found[row] = session
        elif manifest and (path := manifest.paths.get(prepared.file_ids[row])):
            match = _PUBLISHED.search(path)
            found[row] = match.group() if match else ''
    return found


def persons(found: np.ndarray) -> np.ndarray:
    """Gives the person of each session, text [n]; '' stays ''."""
    matches = [_PUBLISHED.fullmatch(session) for session in found]
    return np.array([(m and (m[1] or m[2])) or '' for m in matches], 'U16')


@functools.cache
def _link() -> dict[str, str]:
    """Gives the session by the SHA-256 of slice 19's pixels."""
    file = importlib.resources.files('jax_mrissl.data') / 'alzheimer_mri_sessions.csv'
    rows = csv.DictReader(file.read_text().splitlines())
    return {row['slice_19_pixel_sha256']: row['session'] for row in rows}
