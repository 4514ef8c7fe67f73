"""Look inside a network: what its layers see, which pictures excite them, what speaks for a class.

It works on any ONNX file that takes pictures, without TensorFlow and without a server. Each view
draws a figure (--out; needs the extra `plot`) and can keep its numbers (--npz, a NumPy archive).
A PICTURE is a file, or an image of a data set's test split, such as fashion-mnist:0.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyconv.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyconv.data import Pixels
    from pyconv.engines.base import Array
    from pyconv.inspect.layers import Progress
    from pyconv.model import Model

HELP = "look inside a network: maps, filters, what excites a channel, Grad-CAM, …"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add a subcommand a view."""
    parser.epilog = """examples:
  pyconv inspect maps fashion fashion-mnist:0 --layer conv2d_1
  pyconv inspect exciting fashion --layer conv2d_1 --channel 7 --data fashion-mnist
  pyconv inspect grad-cam my-network.onnx shoe.jpg --out why.png
  pyconv inspect VIEW --help

What each view means and how it is computed: docs/inspect.md."""
    views = parser.add_subparsers(dest="view", metavar="VIEW", required=True)

    view = _view(views, "fields", _fields, "the part of the picture that each layer's values see")
    _model(view)
    _output(view, figure=False)

    view = _view(views, "maps", _maps, "what one layer puts out for a picture, channel by channel")
    _model(view)
    _picture(view)
    _layer(view)
    _output(view)

    view = _view(views, "filters", _filters, "the weights of a convolution")
    _model(view)
    _layer(view)
    view.add_argument("--channel", type=int, metavar="N", help="one filter's inputs, from 0")
    _output(view)

    view = _view(views, "channels", _channels, "means, zeros and dead channels over a data set")
    _model(view)
    _data(view)
    view.add_argument(
        "--layer", metavar="NAME", help="draw this layer (default: only print a row a layer)"
    )
    _output(view)

    view = _view(views, "exciting", _exciting, "the images that excite a channel most, and where")
    _model(view)
    _layer(view)
    view.add_argument("--channel", type=int, required=True, metavar="N", help="from 0")
    _data(view)
    view.add_argument(
        "--count", type=int, default=16, metavar="N", help="how many images (default: 16)"
    )
    _output(view)

    view = _view(views, "occlusion", _occlusion, "how the probability falls where a patch hides it")
    _model(view)
    _picture(view)
    _class(view)
    view.add_argument(
        "--size", type=int, default=5, metavar="N", help="side of the patch in pixels (default: 5)"
    )
    view.add_argument(
        "--stride", type=int, default=1, metavar="N", help="how far it moves (default: 1)"
    )
    _output(view)

    view = _view(views, "grad-cam", _grad_cam, "which places of the last maps speak for a class")
    _model(view)
    _picture(view)
    _class(view)
    _layer(view, required=False, default="the last maps before they are pooled")
    _output(view)

    view = _view(views, "map", _map, "a data set in the plane, alike beside alike")
    _model(view)
    _data(view, limit=2000)
    _layer(view, required=False, default="the last before the output")
    view.add_argument("--method", choices=("pca", "t-sne"), default="pca", help="(default: pca)")
    _output(view)

    view = _view(views, "epochs", _epochs, "how a picture's maps changed while training")
    view.add_argument("folder", metavar="FOLDER", help="the files, in the order of their names")
    _pixels(view)
    _picture(view)
    _layer(view)
    view.add_argument(
        "--channel", type=int, nargs="+", default=[0], metavar="N", help="from 0 (default: 0)"
    )
    _output(view)


def run(args: argparse.Namespace) -> int:
    """Compute a view, draw and save it, and say where."""
    for flag, path, ending in (("--out", args.out, ".png"), ("--npz", args.npz, ".npz")):
        if path is not None and not path.endswith(ending):
            raise InputError(f"{flag}: expected a file that ends in {ending}, got {path!r}")
    show: Callable[[argparse.Namespace], int] = args.show
    return show(args)


# -- Arguments ---------------------------------------------------------------------------------


def _view(
    views: Any, name: str, show: Callable[[argparse.Namespace], int], sentence: str
) -> argparse.ArgumentParser:
    about = textwrap.dedent("    " + (show.__doc__ or ""))
    parser: argparse.ArgumentParser = views.add_parser(name, help=sentence, description=about)
    parser.set_defaults(show=show)
    return parser


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a bundled model's name (fashion, digits) or an .onnx file"
    )
    parser.add_argument(
        "--engine",
        choices=("native", "onnxruntime"),
        default="native",
        help="what computes (default: native)",
    )
    _pixels(parser)


def _pixels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pixels",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="what black and white are to a network whose file does not say (default: 0 1)",
    )


def _picture(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "picture", metavar="PICTURE", help="a picture file, or DATA:N, such as mnist:0"
    )


def _layer(
    parser: argparse.ArgumentParser, required: bool = True, default: str | None = None
) -> None:
    parser.add_argument(
        "--layer",
        required=required,
        metavar="NAME",
        help="as `pyconv summary` names it" + (f" (default: {default})" if default else ""),
    )


def _class(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--class",
        dest="label",
        metavar="LABEL",
        help="the class, by its name or number (default: the likeliest)",
    )


def _data(parser: argparse.ArgumentParser, limit: int | None = None) -> None:
    parser.add_argument(
        "--data", required=True, metavar="NAME", help="the data set: mnist or fashion-mnist"
    )
    parser.add_argument(
        "--split", choices=("train", "test"), default="test", help="(default: test)"
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=limit,
        metavar="N",
        help=f"only the first images (default: {limit or 'all'})",
    )


def _output(parser: argparse.ArgumentParser, figure: bool = True) -> None:
    if figure:
        parser.add_argument(
            "--out", metavar="FILE", help="the figure, a PNG file (default: VIEW.png unless --npz)"
        )
    else:
        parser.set_defaults(out=None)
    parser.add_argument("--npz", metavar="FILE", help="the numbers, a NumPy archive")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


# -- Views -------------------------------------------------------------------------------------


def _fields(args: argparse.Namespace) -> int:
    """The receptive field of every layer: how many pixels of the picture, down and across, one
    value depends on, and how many pixels apart neighbouring values look. Dense layers see all
    that the layers before them have kept.
    """
    from pyconv import inspect

    fields = inspect.receptive_fields(_load(args))
    rows: list[dict[str, Any]] = []
    for name, field in fields.items():
        stride = field.stride
        rows.append(
            {
                "layer": name,
                "shape": list(field.shape),
                "sees": list(field.size),
                "apart": list(stride) if stride else None,
            }
        )
    if args.npz:
        _save_numbers(args.npz, {name: field.boxes for name, field in fields.items()})
    if args.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    _table(
        ["layer", "output", "one value sees", "apart"],
        [
            [
                row["layer"],
                "×".join(map(str, row["shape"])),
                "×".join(map(str, row["sees"])),
                "×".join(map(str, row["apart"])) if row["apart"] else "",
            ]
            for row in rows
        ],
    )
    return 0


def _maps(args: argparse.Namespace) -> int:
    """The maps of all channels of one layer, each with its own scale from dark to bright: where a
    channel looks, not how strongly. The first panel is the picture as the network is shown it.
    """
    from pyconv import inspect

    model = _load(args)
    found = inspect.activation_maps(model, _image(args.picture, model)[None], [args.layer])
    values = found.layers[args.layer][0]
    facts = {
        "layer": args.layer,
        "shape": list(values.shape),
        "low": float(values.min()),
        "high": float(values.max()),
    }
    arrays = {"image": found.images[0], "maps": values}
    return _finish(args, facts, arrays, lambda: found.plot(args.layer))


def _filters(args: argparse.Namespace) -> int:
    """The filters of a convolution: red where a weight adds, blue where it takes away. A first
    layer's filters on grey pictures are what it looks for; deeper ones have a weight for each
    of their inputs, of which --channel shows all for one filter, and the mean is shown without
    it.
    """
    from pyconv import inspect

    found = inspect.filters(_load(args), args.layer)
    arrays = {"kernel": found.kernel}
    if found.bias is not None:
        arrays["bias"] = found.bias
    facts = {"layer": args.layer, "shape": list(found.kernel.shape), "groups": found.groups}
    return _finish(args, facts, arrays, lambda: found.plot(args.channel))


def _channels(args: argparse.Namespace) -> int:
    """Statistics of every channel over a data set: mean, spread, the share of values that are
    exactly 0. A channel that is 0 everywhere is dead: relu never lets anything through, and it
    could go.
    """
    from pyconv import inspect

    images, _ = _dataset(args)
    model = _load(args)
    layers = [args.layer] if args.layer else None
    with _progress("computing") as progress:
        found = inspect.channel_statistics(model, images, layers, progress)
    rows: list[dict[str, Any]] = [
        {
            "layer": each.layer,
            "channels": len(each.mean),
            "mean": float(each.mean.mean()),
            "zeros": float(each.zeros.mean()),
            "dead": [int(channel) for channel in each.dead.nonzero()[0]],
        }
        for each in found
    ]
    if args.npz:
        kinds = ("mean", "deviation", "lowest", "highest", "zeros")
        _save_numbers(args.npz, {f"{e.layer}/{k}": getattr(e, k) for e in found for k in kinds})
    if args.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        _table(
            ["layer", "channels", "mean", "zeros", "dead"],
            [
                [
                    row["layer"],
                    f"{row['channels']}",
                    f"{row['mean']:.3g}",
                    f"{row['zeros']:.1%}",
                    f"{len(row['dead'])}",
                ]
                for row in rows
            ],
        )
    if args.out and not args.layer:
        raise InputError("--out: say with --layer which layer to draw")
    if args.layer and (args.out or not args.npz):
        _save_figure(args, found[0].plot())
    return 0


def _exciting(args: argparse.Namespace) -> int:
    """The images of a data set in which a channel reaches its highest values, the highest first,
    with the part outlined that does it: what the channel has learned to find.
    """
    from pyconv import inspect

    images, _ = _dataset(args)
    model = _load(args)
    with _progress("computing") as progress:
        found = inspect.exciting_images(
            model, args.layer, args.channel, images, args.count, progress
        )
    facts = {
        "layer": found.layer,
        "channel": found.channel,
        "images": [
            {"index": int(index), "value": float(value), "box": list(box)}
            for index, value, box in zip(found.indices, found.values, found.boxes, strict=True)
        ],
    }
    arrays: dict[str, Array] = {
        "indices": found.indices,
        "values": found.values,
        "images": found.images,
    }
    return _finish(args, facts, arrays, found.plot)


def _occlusion(args: argparse.Namespace) -> int:
    """Hides the picture behind a patch, everywhere in turn, and looks how far the probability of a
    class falls (Zeiler and Fergus, 2014). Red is what the answer rests on; blue is what spoke
    against it.
    """
    from pyconv import inspect

    model = _load(args)
    image = _image(args.picture, model)
    with _progress("hiding") as progress:
        found = inspect.occlusion_map(
            model,
            image,
            _index(model, args.label),
            size=args.size,
            stride=args.stride,
            progress=progress,
        )
    facts = {
        "class": found.label,
        "probability": found.probability,
        "largest_fall": float(found.drops.max()),
    }
    arrays = {"image": found.image, "drops": found.drops, "heat": found.heat}
    return _finish(args, facts, arrays, found.plot)


def _grad_cam(args: argparse.Namespace) -> int:
    """Grad-CAM (Selvaraju et al., 2017): the maps of a layer, each weighted by how much the
    class's score rises with it. Coarser than occlusion and a single pass instead of hundreds.
    """
    from pyconv import inspect

    model = _load(args)
    found = inspect.grad_cam(
        model, _image(args.picture, model), _index(model, args.label), layer=args.layer
    )
    facts = {"class": found.label, "score": found.score, "layer": found.layer}
    arrays = {
        "image": found.image,
        "gradient": found.gradient,
        "map": found.map,
        "heat": found.heat,
    }
    return _finish(args, facts, arrays, found.plot)


def _map(args: argparse.Namespace) -> int:
    """Each image as a point, near those that the last hidden layer finds alike: by principal
    components, or by t-SNE (needs the extra `inspect`), which keeps neighbours together;
    distances between its clusters mean nothing.
    """
    from pyconv import inspect

    images, labels = _dataset(args)
    model = _load(args)
    with _progress("computing") as progress:
        found = inspect.dataset_map(
            model, images, labels, layer=args.layer, method=args.method, progress=progress
        )
    facts = {
        "layer": found.layer,
        "method": found.method,
        "images": len(found.points),
        "explained": found.explained,
    }
    return _finish(args, facts, {"points": found.points, "labels": labels}, found.plot)


def _epochs(args: argparse.Namespace) -> int:
    """One picture's maps after each epoch of training, from a folder of ONNX files, one an epoch,
    such as a run of `pyconv study` keeps: when does a channel find what it looks for?
    """
    import numpy as np

    from pyconv import inspect, load
    from pyconv.inspect.epochs import files_of
    from pyconv.inspect.layers import contract_of

    first = load(files_of(args.folder)[0])
    image: Array = _image(args.picture, first)
    if first.metadata.input is None:
        contract = contract_of(_told(args, first))
        image = image * np.float32(contract.scale) + np.float32(contract.offset)
    found = inspect.activations_over_epochs(args.folder, image, args.layer, args.channel)
    facts = {
        "layer": found.layer,
        "channels": list(found.channels),
        "epochs": list(found.epochs),
        "changes": found.changes.tolist(),
    }
    return _finish(args, facts, {"image": found.image, "values": found.values}, found.plot)


# -- In and out --------------------------------------------------------------------------------


def _load(args: argparse.Namespace) -> Model:
    from pyconv import load

    return _told(args, load(args.model, engine=args.engine))


def _told(args: argparse.Namespace, model: Model) -> Model:
    """The model, told how pixels become its input if its file does not say."""
    if model.input_contract is None:
        return model  # what is asked of it says what it lacks
    if model.metadata.input is not None:
        if args.pixels is not None:
            raise InputError(f"--pixels: {model.path} itself says how pixels become its input")
        return model
    low, high = args.pixels or (0.0, 1.0)
    if args.pixels is None and (hasattr(args, "picture") or hasattr(args, "data")):
        print(
            f"{model.path} does not say how pixels become its input: taken as {low:g} to {high:g} "
            "(--pixels LOW HIGH)",
            file=sys.stderr,
        )
    return model.taking_pixels(low, high)


def _image(source: str, model: Model) -> Pixels:
    """A picture as the network takes it: (height, width, channels) uint8."""
    from pyconv import data, pictures
    from pyconv.inspect.layers import contract_of

    contract = contract_of(model)
    name, sign, number = source.rpartition(":")
    if sign and number.isdecimal() and not Path(source).exists():
        images = data.load(name).test_images
        if int(number) >= len(images):
            raise InputError(f"{source}: {name} has the test images 0 to {len(images) - 1}")
        from PIL import Image

        return pictures.prepare(Image.fromarray(images[int(number)]), contract)
    return pictures.prepare(source, contract)


def _dataset(args: argparse.Namespace) -> tuple[Pixels, Array]:
    from pyconv import data

    images, labels = data.load(args.data).split(args.split)
    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit: expected at least 1, got {args.limit}")
    return images[: args.limit], labels[: args.limit]


def _index(model: Model, label: str | None) -> int | None:
    """The class that a name or number says."""
    from pyconv.errors import unknown_name

    if label is None:
        return None
    if label in model.labels:
        return list(model.labels).index(label)
    if label.isdecimal():
        return int(label)
    raise InputError(unknown_name("class", label, model.labels))


def _finish(
    args: argparse.Namespace,
    facts: Mapping[str, Any],
    arrays: Mapping[str, Array],
    plot: Callable[[], Figure],
) -> int:
    if args.out or not args.npz:
        _save_figure(args, plot())
    if args.npz:
        _save_numbers(args.npz, arrays)
    if args.json:
        out = args.out or (None if args.npz else f"{args.view}.png")
        print(json.dumps({**facts, "figure": out, "npz": args.npz}, indent=2, ensure_ascii=False))
    return 0


def _save_figure(args: argparse.Namespace, figure: Figure) -> None:
    path = args.out or f"{args.view}.png"
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise InputError(f"the figure cannot be written: {error}") from error
    if not args.json:
        print(f"figure: {path}")


def _save_numbers(path: str, arrays: Mapping[str, Array]) -> None:
    import numpy as np

    try:
        np.savez(path, allow_pickle=False, **arrays)
    except OSError as error:
        raise InputError(f"the numbers cannot be written: {error}") from error


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.width = max(console.width, 80)
    console.print(table)


@contextmanager
def _progress(what: str) -> Iterator[Progress]:
    """A bar on standard error, gone when all is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tell
