"""What happens between import and program: small rewrites of the graph, each on its own.

A pass is a function that changes a `Graph` in place and keeps every output's value. None of them
may lose a tensor that was asked for: `Graph.use_counts` counts being asked for as a use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from pyconv.graph.ir import Graph
from pyconv.graph.passes.absorb_flatten_transposes import absorb_flatten_transposes
from pyconv.graph.passes.absorb_input_transposes import absorb_input_transposes
from pyconv.graph.passes.absorb_pads import absorb_pads
from pyconv.graph.passes.cancel_transposes import cancel_transposes
from pyconv.graph.passes.drop_identities import drop_identities
from pyconv.graph.passes.eliminate_dead import eliminate_dead
from pyconv.graph.passes.fold_batch_normalization import fold_batch_normalization
from pyconv.graph.passes.fold_constants import fold_constants
from pyconv.graph.passes.fuse_activation import fuse_activation
from pyconv.graph.passes.fuse_bias import fuse_bias
from pyconv.graph.passes.fuse_max_pool import fuse_max_pool
from pyconv.graph.passes.fuse_quantization import fuse_quantization
from pyconv.graph.passes.fuse_residual import fuse_residual
from pyconv.graph.passes.keep_planes import keep_planes
from pyconv.graph.passes.merge_reshapes import merge_reshapes
from pyconv.graph.passes.merge_takes import merge_takes
from pyconv.graph.passes.quantize_dense_inputs import quantize_dense_inputs
from pyconv.graph.passes.recognize_activations import recognize_activations
from pyconv.graph.passes.recognize_normalization import recognize_normalization
from pyconv.graph.passes.reshape_unit_transposes import reshape_unit_transposes
from pyconv.graph.passes.sink_quantization import sink_quantization
from pyconv.graph.passes.sink_reshapes import sink_reshapes
from pyconv.graph.passes.sink_transposes import sink_transposes
from pyconv.graph.passes.split_rows import split_rows
from pyconv.graph.passes.view_outputs import view_outputs
from pyconv.graph.passes.widen_constants import widen_constants

Pass: TypeAlias = Callable[[Graph], None]

PASSES: tuple[Pass, ...] = (
    drop_identities,
    eliminate_dead,
    split_rows,
    fold_constants,
    fuse_quantization,
    recognize_activations,
    # One layout from end to end.
    cancel_transposes,
    sink_transposes,
    view_outputs,
    eliminate_dead,
    absorb_flatten_transposes,
    reshape_unit_transposes,
    merge_reshapes,
    sink_reshapes,
    merge_reshapes,
    eliminate_dead,
    recognize_normalization,
    # Fewer, larger steps.
    sink_quantization,
    quantize_dense_inputs,
    eliminate_dead,
    merge_takes,
    absorb_pads,
    fuse_bias,
    fold_batch_normalization,
    fuse_bias,
    fuse_residual,
    fuse_activation,
    fuse_max_pool,
    absorb_input_transposes,
    keep_planes,
    widen_constants,
    eliminate_dead,
)
"""In the order in which they run."""


def run_passes(graph: Graph, observe: Callable[[str, Graph], None] | None = None) -> None:
    """Bring a graph to the form in which it is compiled.

    Args:
        graph: changed in place.
        observe: called after each pass with the pass's name and the graph.
    """
    for step in PASSES:
        step(graph)
        if observe is not None:
            observe(step.__name__, graph)
