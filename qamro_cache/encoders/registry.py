"""Encoders by name: our own, and those of other packages.

Another package offers one through the entry-point group ``qamro_cache.encoders``; the entry
point names an ``EncoderInfo``. docs/encoders.md shows a complete one.
"""

import importlib
import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.metadata import entry_points
from typing import Any

from qamro_cache.encoders.protocol import Encoder, EncoderInfo, EncoderOptions, WeightsOptions
from qamro_cache.errors import OptionError, QamroError, unknown

GROUP = "qamro_cache.encoders"

#: Modules of this package, each with an ``INFO``.
BUILT_IN = ("mel", "distillmos", "resemblyzer", "clap", "audiobox", "muq", "huggingface")

logger = logging.getLogger("qamro_cache")


def list_encoders() -> list[EncoderInfo]:
    """Return every encoder that can be named: our own first, then the plug-ins by name.

    A plug-in that cannot be imported, is no ``EncoderInfo`` or takes a name that is taken is left
    out, with a notice that says which and why.
    """
    found = [importlib.import_module(f"qamro_cache.encoders.{name}").INFO for name in BUILT_IN]
    names = {info.name for info in found}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            info = point.load()
        except Exception as error:  # a broken plug-in may raise anything
            logger.warning("encoder plug-in %s left out: %r", point.value, error)
            continue
        if not isinstance(info, EncoderInfo):
            logger.warning("encoder plug-in %s left out: not an EncoderInfo", point.value)
        elif info.name in names:
            logger.warning("encoder plug-in %s left out: %s is taken", point.value, info.name)
        else:
            names.add(info.name)
            found.append(info)
    return found


def refuse_encoder(name: str) -> None:
    """Refuse a name that no encoder has, as `find_encoder`; a usual one is right without torch."""
    if name not in BUILT_IN:
        find_encoder(name)


def find_encoder(name: str) -> tuple[EncoderInfo, str]:
    """Return the entry of ``name`` and the argument after its colon (empty without one).

    Raises:
        OptionError: nothing of that name, an argument to an encoder that takes none, or none
            given to one that needs it.
    """
    key, colon, argument = name.partition(":")
    encoders = {info.name: info for info in list_encoders()}
    if key not in encoders:
        raise unknown("no encoder", key, tuple(encoders))
    info = encoders[key]
    if colon and not info.argument:
        raise OptionError(f"encoder {key} takes nothing after a colon; use --encoder {key}")
    if info.argument and not argument:
        raise OptionError(f"encoder {key} needs {info.argument}: --encoder {key}:{info.argument}")
    return info, argument


def license_of(name: str) -> str:
    """Return the license of an encoder's weights; empty for one that has no name here."""
    try:
        return find_encoder(name)[0].license
    except OptionError:
        return ""


def load_encoder(name: str, options: EncoderOptions | None = None, device: str = "cpu") -> Encoder:
    """Load an encoder, in eval mode on ``device``.

    Args:
        name: as ``--encoder`` takes it, for example ``clap`` or ``hf:facebook/hubert-base-ls960``.
        options: checkpoint, precision and so on; None: the defaults.
        device: a torch device, for example ``cpu`` or ``cuda:0``.

    Raises:
        QamroError: unknown name, something missing (all of it, in one line), an option that this
            encoder does not take, weights that do not fit.
    """
    options = EncoderOptions() if options is None else options
    info, argument = find_encoder(name)
    missing = list(info.missing(argument, options))
    if missing:
        raise QamroError(f"encoder {name} is not ready: {'; '.join(missing)}")
    return load_found(info, argument, options, device)


def load_found(info: EncoderInfo, argument: str, options: EncoderOptions, device: str) -> Encoder:
    """Load what `find_encoder` found and nothing is missing of; see `load_encoder`."""
    from qamro_cache.encoders.precision import check_precision, choose_precision

    options = replace(options, precision=choose_precision(info, options, device))
    usual = replace(EncoderOptions(), precision="float32")
    for field in fields(options):
        value = getattr(options, field.name)
        if value != getattr(usual, field.name) and field.name not in info.takes:
            raise QamroError(
                f"encoder {info.name} takes no {field.name} (given: {value!r}); leave it out"
            )
    check_precision(options.precision, device)
    if options.backend == "upstream":
        from qamro_cache.encoders.theirs import load_theirs

        return load_theirs(info.name, options, device)
    return info.load(argument, options, device)


def options_of(
    identity: Mapping[str, Any], weights: WeightsOptions | None = None
) -> EncoderOptions:
    """Return the options under which the encoder of an identity makes its features again.

    Args:
        identity: of a cache or a head; its ``name`` is what to load.
        weights: where they are on this machine; the vocabulary is left out where the identity has
            none.

    Raises:
        QamroError: a field of the identity is missing, or there is no encoder of its name.
    """
    weights = weights or WeightsOptions()
    try:
        audio, no_vocabulary = identity["audio"], not identity["tokenizer_sha256"]
        found: dict[str, Any] = {
            "tokenizer": "none" if no_vocabulary else weights.tokenizer,
            "precision": str(identity["precision"]),
            "rate_policy": str(audio["rate_policy"]),
            "int16": bool(audio["int16"]),
            "backend": "upstream" if "backend" in identity.get("options", ()) else "ours",
        }
        # What an encoder does not take, it has by itself: only clap can be told not to truncate.
        info, _ = find_encoder(str(identity["name"]))
        found = {name: value for name, value in found.items() if name in info.takes}
        given = {field.name: getattr(weights, field.name) for field in fields(WeightsOptions)}
        return EncoderOptions(**given | found)
    except (KeyError, TypeError) as error:
        raise QamroError(
            f"the identity names no encoder that can be loaded (field {error}); "
            "its file was not written by this program"
        ) from error
    except OptionError as error:
        # Of a file's making, not of the user's.
        raise QamroError(f"{error}; install the package that brings it") from error
