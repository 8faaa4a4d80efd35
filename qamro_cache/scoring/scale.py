"""On which listening test's scale a head scores that has learned from several."""

import logging
from dataclasses import replace

from qamro_cache.errors import OptionError, few, unknown
from qamro_cache.heads.head import Ensemble, Head

logger = logging.getLogger("qamro_cache")


def on_scale_of(head: Head | Ensemble, source: str) -> Head | Ensemble:
    """Return a head with scores on the scale of a test; empty: of the most training clips.

    An ensemble has learned from one. An axis that was not learned from this test keeps its own
    scale, and a line says so.

    Raises:
        OptionError: it has not learned from such a test, or is calibrated.
    """
    if isinstance(head, Ensemble):
        if source:
            raise OptionError(f"--source {source!r}: an ensemble has learned from one test alone")
        return head
    known = list(dict.fromkeys(name for one in head.axes for name in one.scales))
    if source and not known:
        raise OptionError(f"--source {source!r}: this head has learned from one test alone")
    if source and source not in known:
        raise unknown("--source: the head has not learned from", source, known)
    if source and head.calibration:
        raise OptionError(
            f"--source {source!r}: scores on {', '.join(head.calibration)} are calibrated to "
            "labels of yours, from one scale; leave it out"
        )
    axes = tuple(one.on(source) if source in one.scales else one for one in head.axes)
    if not source and known:
        used = dict.fromkeys(one.source for one in axes if one.source)
        logger.info(
            "scores are on the scale of %s, of the %d tests that the head learned from (%s); "
            "--source names another",
            " and ".join(used),
            len(known),
            few(known),
        )
    for one in axes:
        if source and one.source != source:
            logger.warning("%s: not learned from %s; it keeps its scale", one.axis.name, source)
    return replace(head, axes=axes)
