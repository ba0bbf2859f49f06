"""scikit-learn's own tests of its MLP, with the two names exchanged."""

from pathlib import Path

import pytest

test_mlp = pytest.importorskip("sklearn.neural_network.tests.test_mlp")
pytestmark = pytest.mark.filterwarnings("ignore")  # those that are wanted are caught by the tests


@pytest.fixture
def global_random_seed():
    return 42


THEIRS, OURS = (
    f"from {package} import MLPClassifier, MLPRegressor" for package in ("sklearn.neural_network", "gpu_backprop")
)
source = Path(test_mlp.__file__).read_text(encoding="utf-8")
assert THEIRS in source
exec(compile(source.replace(THEIRS, OURS), test_mlp.__file__, "exec"))


def test_the_names_are_exchanged():
    assert MLPClassifier.__module__.startswith("gpu_backprop.")  # noqa: F821
    assert MLPRegressor.__module__.startswith("gpu_backprop.")  # noqa: F821
