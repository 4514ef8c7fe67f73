"""What each layer of a model sees of its picture."""

from __future__ import annotations

from collections.abc import Sequence

from pyconv.errors import InputError, unknown_name
from pyconv.graph import importer, reader
from pyconv.graph.batch import BatchError, Shape
from pyconv.graph.importer import Network
from pyconv.graph.receptive_field import ReceptiveField
from pyconv.graph.receptive_field import receptive_fields as fields_of_tensors
from pyconv.metadata import InputContract
from pyconv.model import Model


def receptive_fields(
    model: Model, layers: Sequence[str] | None = None
) -> dict[str, ReceptiveField]:
    """The part of the picture that each value of each layer depends on.

    Args:
        model: on any engine.
        layers: names from `model.layers`; all of them by default.

    Returns:
        By layer, with the axes that `model.activations` gives it. Without an entry are tensors
        that do not come of the picture, such as the shape arithmetic of a file without a layer map.

    Raises:
        InputError: a layer does not exist, or the network takes no pictures.
        UnsupportedOperatorError: the compiler does not know an operator of the file.
    """
    contract = model.input_contract
    if contract is None:
        raise InputError(
            f"{model.path}: this network takes no pictures, so nothing sees any of one"
        )
    known = {layer.name: layer for layer in model.layer_map}
    for name in layers or ():
        if name not in known:
            raise InputError(unknown_name("layer", name, known))
    wanted = {known[name].tensor: known[name].axes for name in layers or known}
    axes = (2, 3) if contract.layout == "NCHW" and contract.rank == 4 else (1, 2)
    found = fields_of_tensors(_network(model, contract), contract.tensor, axes, wanted)
    return {
        name: found[known[name].tensor] for name in layers or known if known[name].tensor in found
    }


def _network(model: Model, contract: InputContract) -> Network:
    """The file in the compiler's terms, for any batch or else for one picture."""
    file = reader.read(model.path)
    try:
        return importer.build(file, importer.batch_shapes(file))
    except BatchError:
        sizes: Shape = (contract.height, contract.width)
        if contract.rank == 4:
            channels = (contract.channels,)
            sizes = (*channels, *sizes) if contract.layout == "NCHW" else (*sizes, *channels)
        return importer.build(file, {contract.tensor: (1, *sizes)})
