"""The chart of the last hours, as the template draws it."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.operators.overview import HourStats


@dataclass(frozen=True, slots=True)
class Bar:
    """One hour of the chart, in its own units."""

    hour: HourStats
    x: float
    width: float
    arrived: float
    refused: float


def chart(hours: Sequence[HourStats], width: float = 720, height: float = 120) -> list[Bar]:
    top = max(4, *(hour.total for hour in hours))
    step = width / len(hours)
    return [
        Bar(
            hour,
            x=round(place * step + 2, 1),
            width=round(step - 4, 1),
            arrived=_tall(hour.arrived, top, height),
            refused=_tall(hour.rejected, top, height),
        )
        for place, hour in enumerate(hours)
    ]


def _tall(count: int, top: int, height: float) -> float:
    return round(max(2.0, count / top * height), 1) if count else 0.0
