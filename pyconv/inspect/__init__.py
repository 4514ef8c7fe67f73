"""Looking inside a network, from its ONNX file alone: docs/inspect.md.

>>> import pyconv
>>> from pyconv import inspect
>>> model = pyconv.load("fashion")                                    # doctest: +SKIP
>>> inspect.receptive_fields(model)["conv2d_1"].size                  # doctest: +SKIP
(8, 8)

Every function takes a `pyconv.Model` on either engine and returns arrays in a small object, whose
`plot` draws them as a Matplotlib figure (the extra `plot`). Everything is imported when it is first
used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyconv.lazy import attributes

if TYPE_CHECKING:
    from pyconv.graph.receptive_field import Box as Box
    from pyconv.graph.receptive_field import ReceptiveField as ReceptiveField
    from pyconv.inspect.cam import GradCam as GradCam
    from pyconv.inspect.cam import grad_cam as grad_cam
    from pyconv.inspect.channels import ChannelStatistics as ChannelStatistics
    from pyconv.inspect.channels import channel_statistics as channel_statistics
    from pyconv.inspect.epochs import EpochMaps as EpochMaps
    from pyconv.inspect.epochs import activations_over_epochs as activations_over_epochs
    from pyconv.inspect.exciting import ExcitingImages as ExcitingImages
    from pyconv.inspect.exciting import exciting_images as exciting_images
    from pyconv.inspect.fields import receptive_fields as receptive_fields
    from pyconv.inspect.kernels import Filters as Filters
    from pyconv.inspect.kernels import filters as filters
    from pyconv.inspect.maps import ActivationMaps as ActivationMaps
    from pyconv.inspect.maps import activation_maps as activation_maps
    from pyconv.inspect.occlusion import OcclusionMap as OcclusionMap
    from pyconv.inspect.occlusion import occlusion_map as occlusion_map
    from pyconv.inspect.projection import DataMap as DataMap
    from pyconv.inspect.projection import dataset_map as dataset_map

_HOMES = {
    "pyconv.graph.receptive_field": ["Box", "ReceptiveField"],
    "pyconv.inspect.channels": ["ChannelStatistics", "channel_statistics"],
    "pyconv.inspect.projection": ["DataMap", "dataset_map"],
    "pyconv.inspect.epochs": ["EpochMaps", "activations_over_epochs"],
    "pyconv.inspect.exciting": ["ExcitingImages", "exciting_images"],
    "pyconv.inspect.fields": ["receptive_fields"],
    "pyconv.inspect.cam": ["GradCam", "grad_cam"],
    "pyconv.inspect.kernels": ["Filters", "filters"],
    "pyconv.inspect.maps": ["ActivationMaps", "activation_maps"],
    "pyconv.inspect.occlusion": ["OcclusionMap", "occlusion_map"],
}

__all__ = sorted(name for names in _HOMES.values() for name in names)

__getattr__ = attributes(__name__, _HOMES)
