"""Seeds of ours from random states of scikit-learn's."""

from __future__ import annotations

from typing import Any

from sklearn.utils import check_random_state


def draw_seed(random_state: Any) -> int:
    """Draws a seed: the same for the same integer, another each time for None or a RandomState, which goes on."""
    return int(check_random_state(random_state).randint(2**31 - 1))
