"""TensorBoard's HPARAMS table, with a row for each run and the columns of all runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from torch.utils.tensorboard.summary import hparams

from qra.callbacks.hyperparameters import COLUMNS, NUMBERS, STUDY, Word
from qra.coordinates import Axis

_TELLING = ("attack", "init_from", "scheme", "training", "transfer")
"""Columns that distinguish runs: of some twenty, TensorBoard shows only the first five by default."""
_TELLING_CELLS = tuple(
    f"{STUDY}{axis}" for axis in (Axis.INIT, Axis.QUANTIZER, Axis.TRAINING, Axis.WEIGHT_BITS, Axis.ACT_BITS)
)
"""The same for the cells of a study."""
_TYPES = {
    str: api_pb2.DATA_TYPE_STRING,
    bool: api_pb2.DATA_TYPE_BOOL,
    int: api_pb2.DATA_TYPE_FLOAT64,
    float: api_pb2.DATA_TYPE_FLOAT64,
}


def hparams_summaries(values: Mapping[str, Word], metrics: Mapping[str, float]) -> list[Any]:
    """Return the summaries that make a run a row of the table.

    TensorBoard takes the columns for all runs from whichever run it reads first, so each run names every possible
    column.

    Args:
        values: Hyperparameters of the run, by column.
        metrics: Measured values, by tag.

    Returns:
        Three summaries for an event file: the columns, the row, and the end of the run.
    """
    telling = _TELLING_CELLS if any(name in values for name in _TELLING_CELLS) else _TELLING
    columns = [_column(name, values.get(name), name in telling) for name in dict.fromkeys((*COLUMNS, *values))]
    measured = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics]
    experiment = api_pb2.Experiment(hparam_infos=columns, metric_infos=measured)
    content = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(experiment=experiment))
    table = Summary.Value(tag=metadata.EXPERIMENT_TAG, metadata=content, tensor=metadata.NULL_TENSOR)
    _, *row = hparams(dict(values), dict(metrics))  # type: ignore[no-untyped-call]
    return [Summary(value=[table]), *row]


def _column(name: str, value: Word | None, is_telling: bool) -> Any:
    kind = (float if name in NUMBERS else str) if value is None else type(value)
    return api_pb2.HParamInfo(name=name, type=_TYPES[kind], differs=is_telling)
