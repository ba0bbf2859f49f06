"""What is measured besides the loss: metrics by name, as scikit-learn calls them, and a user's own functions."""

from gpu_backprop.training.metrics.residuals import Residuals as Residuals
from gpu_backprop.training.metrics.scores import Scores as Scores
from gpu_backprop.training.metrics.table import LABELS as LABELS
from gpu_backprop.training.metrics.table import METRICS as METRICS
from gpu_backprop.training.metrics.table import NUMBERS as NUMBERS
from gpu_backprop.training.metrics.table import Given as Given
from gpu_backprop.training.metrics.table import Metric as Metric
from gpu_backprop.training.metrics.table import choose_metrics as choose_metrics
from gpu_backprop.training.metrics.table import default_metrics as default_metrics
from gpu_backprop.training.metrics.table import larger_is_better as larger_is_better
from gpu_backprop.training.metrics.table import metric_named as metric_named
from gpu_backprop.training.metrics.table import tasks_of as tasks_of
