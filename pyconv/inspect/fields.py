"""What each layer of a model sees of its picture."""

from __future__ import annotations

from collections.abc import Sequence

from pyconv.graph.receptive_field import ReceptiveField
from pyconv.graph.receptive_field import receptive_fields as fields_of_tensors
from pyconv.inspect.layers import contract_of, network_of, views
from pyconv.model import Model


def receptive_fields(
    model: Model, layers: Sequence[str] | None = None
) -> dict[str, ReceptiveField]:
    """The part of the picture that each value of each layer depends on.

    Args:
        model: on any engine.
        layers: names from `model.layers`; all of them by default.

    Returns:
        By layer, with the channels in the last axis. Without an entry are tensors that do not come
        of the picture, such as the shape arithmetic of a file without a layer map.

    Raises:
        InputError: a layer does not exist, or the network takes no pictures.
        UnsupportedOperatorError: the compiler does not know an operator of the file.
    """
    contract = contract_of(model)
    chosen = views(model, layers)
    network = network_of(model)
    ranks = {view.tensor: len(network.shape(view.tensor) or ()) for view in chosen}
    wanted = {view.tensor: view.permutation(ranks[view.tensor]) for view in chosen}
    axes = (2, 3) if contract.layout == "NCHW" and contract.rank == 4 else (1, 2)
    found = fields_of_tensors(network, contract.tensor, axes, wanted)
    return {view.name: found[view.tensor] for view in chosen if view.tensor in found}
