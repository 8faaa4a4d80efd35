"""From caches on disk to what `fit` takes: what heads see of the chosen clips, in memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qamro_cache.cache.checks import join_licenses
from qamro_cache.cache.content import TextFeatures, WindowFeatures
from qamro_cache.datasets.options import PLAIN, RaterOptions
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.baselines import View
from qamro_cache.evaluation.from_cache import own_scores
from qamro_cache.experiments.clips import Clips
from qamro_cache.experiments.company import closed_parts, company, tell_company, training_parts
from qamro_cache.experiments.labels import Wanted, targets_of
from qamro_cache.experiments.rivals import held_out_baselines, rivals_in_folds
from qamro_cache.features.context import Company, Context, times
from qamro_cache.features.expression import Call, Expression, Read, takes_windows
from qamro_cache.features.lookup import widths
from qamro_cache.features.pooling import clip_of_window, mean_rows, take_clips
from qamro_cache.features.sources import Sources
from qamro_cache.features.vectors import ClipVectors, Projection, clip_vectors, refuse_values
from qamro_cache.heads.architecture import Architecture
from qamro_cache.heads.network import input_width, prepare_rows
from qamro_cache.memory import refuse_memory
from qamro_cache.training.inputs import Bools, Features, Folds, Targets

Floats = npt.NDArray[np.float64]


class Beside(NamedTuple):
    """Whom clips are heard beside, and how folds hold them out: who is company in training."""

    company: Company
    cv: str


@dataclass(frozen=True)
class Material:
    """The rated clips of some caches, with what the heads of some folds see of them.

    Attributes:
        clips: one row a clip that has features and at least one label.
        folds: over the clips.
        features: of these clips: one for all folds, or one a fold.
        projections: that are in them, likewise.
        vectors: of all clips of the caches, to make the features of; None for windows.
        beside: whom the clips are heard beside; None: they are heard alone.
        expression: what is read, with every name in full.
        text_feature: its name in the cache; empty where no prompts are used.
        sources: that it is read from.
        modeling: what is made of the ratings that heads learn from.
    """

    clips: Clips
    folds: Folds
    features: tuple[Features, ...]
    projections: tuple[Mapping[Call, Projection], ...]
    vectors: ClipVectors | None
    beside: "Beside | None"
    expression: Expression
    text_feature: str
    sources: Sources
    modeling: RaterOptions = PLAIN

    @property
    def encoder(self) -> str:
        """Its name, or the names of several."""
        return self.sources.name

    @property
    def feature(self) -> str:
        """What is read, in words."""
        return str(self.expression)

    def view(self, fold: int) -> int:
        """Return which of the features the heads of a fold see."""
        return fold if len(self.features) > 1 else 0

    def seen(self, fold: int) -> Features:
        """Return what the heads of a fold see."""
        return self.features[self.view(fold)]

    def bound(self, folds: Folds) -> "Material":
        """Return the same clips as the heads of other folds see them."""
        if self.vectors is None:
            return replace(self, folds=folds)
        first = self.features[0]
        made = _views(self.vectors, self.beside, self.clips, folds, sum(first.parts))
        features = tuple(first._replace(windows=vectors) for vectors, _ in made)
        return replace(
            self, folds=folds, features=features, projections=tuple(fitted for _, fitted in made)
        )

    def context(self, fold: int) -> Context | None:
        """Return what a fold's training clips were heard beside, for the head file."""
        if self.beside is None:
            return None
        company, cv = self.beside
        sizes = np.zeros(1, np.int64)
        if company.of_groups:
            part = training_parts(self.clips, self.folds, cv)[fold]
            sizes = company.others(part)[self.clips.rows[self.folds.train[fold]]]
        return Context(company.kind, company.by, int(sizes.min()), int(sizes.max()))

    def origin(self) -> dict[str, Any]:
        """Return what a run's ``config.json`` says of the clips and their features."""
        return {
            "dataset": self.sources.first.dataset,
            "synthetic": self.sources.synthetic,
            "licenses": join_licenses([cache.licenses for cache in self.sources.caches]),
            "encoder": self.encoder,
            "identity_sha256": self.sources.identity_sha256,
            "feature": self.feature,
            "context": "none" if self.beside is None else self.beside.company.kind,
        }

    def targets(self) -> Targets:
        """Return the labels of all axes as `fit` takes them."""
        wanted = [Wanted(axis, 0, self.modeling) for axis in range(len(self.clips.axes))]
        return targets_of(self.clips, self.folds, wanted)

    def learned(self, axis: int, fold: int) -> Floats:
        """Return an axis' labels that a fold's heads learn from."""
        of, mine = self.folds, [fold]
        one = Folds(of.train[mine], of.validation[mine], of.test[mine])
        made = targets_of(self.clips, one, [Wanted(axis, 0, self.modeling)])
        labels: Floats = made.of(0, 0).numpy()[one.train[0]]
        return labels

    def clip_means(self, fold: int) -> Tensor:
        """Return the mean of each clip's windows [C, D] in a fold, flat, without the prompt."""
        windows, offsets, weights, *_ = self.seen(fold)
        return mean_rows(windows.flatten(1), clip_of_window(offsets), weights, len(offsets) - 1)

    def baselines(self, axis: int, *, every: bool) -> dict[str, Floats]:
        """Predict held-out clips by what a head must beat: name -> predictions [C]."""
        return held_out_baselines(self.clips, self.folds, self.by_view(), axis, every=every)

    def rivals(self, axis: int, *, every: bool) -> dict[str, Floats]:
        """Return the same of each fold, paired clips too: name -> [F, C]; of an axis with pairs."""
        return rivals_in_folds(self.clips, self.folds, self.by_view(), axis, every=every)

    def by_view(self) -> Iterator[View]:
        """Yield what baselines see of each of the features, and the folds that see them."""
        folds = self.folds
        for view, features in enumerate(self.features):
            mine = [fold for fold in range(len(folds.train)) if self.view(fold) == view]
            values, text = self.clip_means(mine[0]), features.text
            vectors = (values if text is None else torch.cat([values, text], 1)).double().numpy()
            blocks = features.blocks("audio" if text is None else "concat")
            learned = (folds.train | folds.validation)[mine]
            yield View(vectors, learned, folds.test[mine], blocks, folds.groups)

    def tell(self) -> None:
        """Log what is odd about the clips' company."""
        if self.beside is not None:
            company, cv = self.beside
            tell_company(company, self.clips, training_parts(self.clips, self.folds, cv))

    def own_scores(self) -> dict[str, Floats]:
        """Return the encoders' own scores of the clips, in their units: name -> [C]."""
        found: dict[str, Floats] = {}
        for cache, rows in zip(self.sources.caches, self.sources.rows, strict=True):
            found |= own_scores(cache, rows[self.clips.rows])
        return found

    def check_head(self, head: Architecture) -> None:
        """Refuse a head that does not take the feature, or the labels."""
        labels = self.clips.labels
        lacking = (np.isfinite(labels.mean) & np.isnan(labels.spread[..., 1])).any(0)
        if head.output == "gaussian" and lacking.any():
            raise QamroError(
                f"output=gaussian learns from single ratings, and of axis "
                f"{self.clips.axes[int(lacking.argmax())].name!r} only means are known"
            )
        first = self.features[0]
        width = 0 if first.text is None else first.text.shape[1]
        try:
            input_width(head, first.windows.shape[1:], width)
        except ValueError as error:
            raise QamroError(f"feature {self.feature!r}: {error}") from error

    def row_shape(self, head: Architecture) -> tuple[int, ...]:
        """Return the shape of one row that a head sees."""
        windows, offsets, weights, text, _ = self.features[0]
        few = int(offsets[1])
        one = None if text is None else text[:1]
        rows = prepare_rows(head, windows[:few], offsets[:2], weights[:few], one)
        return tuple(rows.values.shape[1:])


def words_of_all(origins: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, str]:
    """Return what several `Material.origin` say, each different one once."""
    return {name: ", ".join(dict.fromkeys(str(one[name]) for one in origins)) for name in names}


def load_material(
    sources: Sources,
    clips: Clips,
    folds: Folds,
    expression: Expression,
    context: str = "none",
    cv: str = "",
    *,
    text: bool = False,
    text_feature: str = "",
) -> Material:
    """Read what an expression names of the chosen clips.

    Args:
        sources: joined caches.
        clips: of `choose_clips`.
        folds: over the clips.
        expression: with every name in full.
        context: what clips are heard beside, of `CONTEXTS`.
        cv: how the folds hold clips out.
        text: whether the prompts' embeddings are wanted.
        text_feature: name; empty for the first.

    Raises:
        QamroError: no such feature, or a NaN among its values.
    """
    sources = sources.only(expression)
    rows = torch.from_numpy(clips.rows)
    prompts = None
    if text:
        k, text_feature = sources.text_source(text_feature)
        read = sources.read_text(text_feature)
        if (lacking := (read.index[rows] < 0).numpy()).any():
            raise QamroError(
                f"{sources.caches[k].paths[0]} has no prompt of {int(lacking.sum())} clips that "
                f"have one in {sources.first.paths[0]}, such as "
                f"{clips.table['clip_id'].to_numpy(str)[lacking][0]!r}; extract both from the same "
                "manifest"
            )
        prompts = _prompts(read, rows)
    named = text_feature if text else ""
    if takes_windows(expression, context):
        assert isinstance(expression, Read)
        found = take_windows(sources.read(expression), rows)
        refuse_values(found.windows, expression, sources)
        features = Features(*found, prompts)
        return Material(clips, folds, (features,), ({},), None, None, expression, named, sources)
    vectors = clip_vectors(expression, sources)
    beside = None
    if context != "none":
        heard = company(clips, cv, context, str(sources.first.paths[0]))
        beside = Beside(heard, cv)
    whole = torch.arange(len(rows) + 1), torch.ones(len(rows))
    parts = widths(expression, sources.identities) * times(context)
    # Every fold's values take its place.
    empty = Features(torch.empty(0), *whole, prompts, parts)
    made = vectors, beside, expression, named, sources
    return Material(clips, folds, (empty,), ({},), *made).bound(folds)


def _views(
    vectors: ClipVectors, beside: "Beside | None", clips: Clips, folds: Folds, width: int
) -> Sequence[tuple[Tensor, Mapping[Call, Projection]]]:
    """Return the clips' vectors and the projections in them: one for all folds, or one a fold.

    ``width`` is that of a clip's vector.
    """
    rows = torch.from_numpy(clips.rows)
    closed: list[list[Bools]] = [[] for _ in folds.train]
    if beside is not None:
        parts = closed_parts(clips, folds, beside.cv)
        if not all(beside.company.agrees(part) for fold in parts for part in fold):
            closed = parts
    if vectors.shared and not closed[0]:
        return [(_heard(vectors.values({}), beside, [])[rows], {})]
    size = 4 * len(folds.train) * len(rows) * width
    refuse_memory(size, f"a view of {width:,} numbers a clip for each fold", "use another --cv")
    made = []
    for fold, train in enumerate(folds.train):
        fitted = vectors.fit(rows[torch.from_numpy(train)])
        made.append((_heard(vectors.values(fitted), beside, closed[fold])[rows], fitted))
    return made


def _heard(values: Tensor, beside: "Beside | None", closed: Sequence[Bools]) -> Tensor:
    return values if beside is None else beside.company.seen(values, closed)


def take_windows(read: WindowFeatures, rows: Tensor) -> WindowFeatures:
    """Return some clips' windows."""
    taken = take_clips(read.offsets, rows)
    windows = read.windows.float()[taken.windows]
    return WindowFeatures(windows, taken.offsets, read.weights[taken.windows])


def _prompts(read: TextFeatures, rows: Tensor) -> Tensor:
    return read.embeddings.float()[read.index[rows]].flatten(1)
