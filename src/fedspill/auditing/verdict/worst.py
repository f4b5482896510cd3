"""The closest that any attack came to each private example."""

from collections.abc import Sequence

from fedspill.report.leakage import example_of
from fedspill.report.schema import WorstExample
from fedspill.report.trial import Score, Trial


def worst_examples(metric: str, trials: Sequence[Trial]) -> list[WorstExample]:
    """The closest that any attack came to each private example by one metric, the closest example first.

    An example is marked as leaked, or as recognisable, if it is so by any trial, though another one came closer by this
    metric.
    """
    best, ascending = dict[tuple[int, int], WorstExample](), True
    for trial in trials:
        for score in (s for s in trial.scores if s.metric == metric):
            ascending = not score.higher_is_closer
            for place, value in enumerate(score.values):
                if value is not None:
                    example = _example(trial, score, place, value)
                    held = best.setdefault(example_of(trial, place), example)
                    best[example_of(trial, place)] = _closer(held, example, ascending)
    return sorted(best.values(), key=lambda w: w.value, reverse=not ascending)


def _example(trial: Trial, score: Score, place: int, value: float) -> WorstExample:
    return WorstExample(
        example=trial.examples[place],
        update=trial.update,
        trial=trial.name,
        metric=score.metric,
        unit=score.unit,
        value=value,
        leaked=trial.leaked is not None and trial.leaked[place],
        recognisable=trial.recognisable is not None and trial.recognisable[place],
    )


def _closer(held: WorstExample, example: WorstExample, ascending: bool) -> WorstExample:
    """The closer of two reconstructions of one example, the earlier one if they are equal."""
    closer = example.value < held.value if ascending else example.value > held.value
    marks = {
        "leaked": held.leaked or example.leaked,
        "recognisable": held.recognisable or example.recognisable,
    }
    return (example if closer else held).model_copy(update=marks)
