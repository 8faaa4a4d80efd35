"""Write a head as a program that runs without this package: ONNX, or torch.export's own format."""

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from qamro_cache.encoders.support import missing_packages
from qamro_cache.errors import OptionError, QamroError, quoted
from qamro_cache.files import json_text, refuse_other, write_file
from qamro_cache.heads.averaged import scale_of
from qamro_cache.heads.file import head_record, load_head
from qamro_cache.heads.head import AnyHead, axes_of
from qamro_cache.integrations.program import HeadProgram
from qamro_cache.paths import PathLike, as_path

#: Ending of a file -> what it is.
FORMATS = {".onnx": "ONNX", ".pt2": "torch.export"}
#: By what name a file holds the head's record.
RECORD = "qamro_cache.head"
#: What comes out.
OUTPUTS = {
    "prediction": "the members' mean, in the axes' units",
    "prediction_std": "the members' standard deviation; NaN of one member",
}
#: Of the operators; of 2022, so that runtimes of the last years have them.
_OPSET = 18


def export_head(head: PathLike | AnyHead, out: PathLike) -> dict[str, Any]:
    """Write what `predict` computes from a clip's vector as a program of its own.

    What goes in: the clip's vector, its reference's and its group's where the head has a context,
    its prompt's where it takes one, for any number of clips at once; of a head that sees single
    windows those, with their weights. What comes out: `OUTPUTS`, each [clips, axes].

    Args:
        head: a head file, the folder of a run, a name of `list_heads`, or a head already loaded.
        out: file to make: ``.onnx``, or ``.pt2`` of `torch.export.load`. One that this made is
            replaced.

    Returns:
        What the file holds too, as JSON by the name ``qamro_cache.head``: ``inputs`` and
        ``outputs`` with their shapes and what they are, ``axes`` with their scales, and the head's
        ``record``.

    Raises:
        QamroError: the head is not usable, a package is missing, or ``out`` is another file.
    """
    path = as_path(out)
    if path.suffix not in FORMATS:
        there = " or ".join(f"{ending} ({what})" for ending, what in FORMATS.items())
        raise OptionError(f"{quoted(str(path))}: a head is exported to a file that ends in {there}")
    _refuse_other_export(path)
    if path.suffix == ".onnx":
        for line in missing_packages(("onnx", "onnxscript"), "onnx"):
            raise QamroError(line)
    loaded = load_head(head)
    program = HeadProgram(loaded).eval()
    about = _about(program, loaded)
    with _quiet():
        exported = _exported(program)
        text = json.dumps(about)
        made = _onnx(exported, program, text) if path.suffix == ".onnx" else _pt2(exported, text)
    write_file(path, lambda file: file.write(made))
    return about


def _about(program: HeadProgram, head: AnyHead) -> dict[str, Any]:
    """Return what a file says of itself, as JSON types."""
    scales = {axis.name: scale_of(head, axis.name) for axis in axes_of(head)}
    outputs = {n: {"shape": ["clips", len(scales)], "about": what} for n, what in OUTPUTS.items()}
    record = {
        "inputs": {name: one._asdict() for name, one in program.inputs.items()},
        "outputs": outputs,
        "axes": [
            {"name": name, "low": one and one.low, "high": one and one.high}
            for name, one in scales.items()
        ],
        "record": head_record(head),
    }
    found: dict[str, Any] = json.loads(json_text(record))
    return found


def _exported(program: HeadProgram) -> torch.export.ExportedProgram:
    """Trace a program for any number of clips, and of windows."""
    sizes, anything = {"clips": 3, "windows": 2}, torch.export.Dim.DYNAMIC
    examples, shapes = {}, {}
    for name, one in program.inputs.items():
        known = [sizes[size] if isinstance(size, str) else size for size in one.shape]
        examples[name] = torch.ones(known)
        shapes[name] = {k: anything for k, size in enumerate(one.shape) if isinstance(size, str)}
    with torch.no_grad():
        found = torch.export.export(program, (), examples, dynamic_shapes=shapes, strict=False)
    for node in found.graph.nodes:
        # It names files of the machine that exports.
        node.meta.pop("stack_trace", None)
    return found


def _pt2(exported: torch.export.ExportedProgram, text: str) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(exported, buffer, extra_files={RECORD: text})
    return buffer.getvalue()


def _onnx(exported: torch.export.ExportedProgram, program: HeadProgram, text: str) -> bytes:
    found = torch.onnx.export(
        exported,
        input_names=list(program.inputs),
        output_names=list(OUTPUTS),
        opset_version=_OPSET,
        custom_translation_table=_translations(),
        dynamo=True,
        verbose=False,
    )
    assert found is not None
    model = found.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]
    _name_sizes(model.graph, program)
    model.metadata_props.add(key=RECORD, value=text)
    data: bytes = model.SerializeToString()
    return data


def _translations() -> dict[Any, Any]:
    """Return, in ONNX, the operations of ours that PyTorch's exporter does not know."""
    from onnxscript import opset18

    op: Any = opset18

    def cdist(x: Any, y: Any, *_: Any, **__: Any) -> Any:
        squares, others = (op.ReduceSum(op.Mul(one, one), [1]) for one in (x, y))
        y = op.Transpose(y, perm=[1, 0])
        products = op.MatMul(op.Add(x, x), y)
        apart = op.Sub(op.Add(squares, op.Transpose(others, perm=[1, 0])), products)
        return op.Sqrt(op.Max(apart, op.Sub(apart, apart)))

    def sort(x: Any, **_: Any) -> Any:
        # Each row from the least, and of equal ones the first first, as stable=True says.
        return op.TopK(x, op.Shape(x, start=1, end=2), axis=1, largest=0)

    def searchsorted(steps: Any, x: Any, *_: Any, **__: Any) -> Any:
        below = op.Less(op.Unsqueeze(steps, [0]), op.Unsqueeze(x, [1]))
        return op.ReduceSum(op.Cast(below, to=7), [1], keepdims=0)  # 7: int64

    aten = torch.ops.aten
    return {
        aten.cdist.default: cdist,
        aten._cdist_forward.default: cdist,
        aten.sort.stable: sort,
        aten.searchsorted.Tensor: searchsorted,
    }


def _name_sizes(graph: Any, program: HeadProgram) -> None:
    """Call the sizes that may be any what `HeadProgram.inputs` calls them, for ``s53`` and such."""
    ours = {
        dim.dim_param: str(size)
        for value, one in zip(graph.input, program.inputs.values(), strict=True)
        for dim, size in zip(value.type.tensor_type.shape.dim, one.shape, strict=True)
        if dim.dim_param
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:  # setting it would unset a number
                named = re.sub(r"\w+", lambda word: ours.get(word[0], word[0]), dim.dim_param)
                dim.dim_param = named


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporters say of their own insides from people who export a head."""
    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _refuse_other_export(path: Path) -> None:
    def is_ours(path: Path) -> bool:
        return RECORD.encode() in path.read_bytes()

    refuse_other(path, "exported head", is_ours)
