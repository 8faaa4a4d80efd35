"""Defaults that depend on how many clips there are; docs/training.md has the evidence."""

from qamro_cache.training.recipe import Recipe, Settings
from qamro_cache.training.schedule import MIN_STEPS, passes_per_epoch


def adapt(recipe: Recipe, given: Settings, clips: int) -> tuple[Recipe, list[str]]:
    """Return the recipe for ``clips`` training clips, and a line for each thing that adapted.

    What the user has ``given`` stays as it is.
    """
    reasons = []
    passes = passes_per_epoch(clips, recipe.batch_size)
    if passes > 1:
        steps = -(-clips // recipe.batch_size)
        reasons.append(
            f"{clips} training clips make {steps} step{'s' * (steps != 1)} of "
            f"{recipe.batch_size}: an epoch is {passes} passes, for at least {MIN_STEPS} steps"
        )
    return recipe, reasons
