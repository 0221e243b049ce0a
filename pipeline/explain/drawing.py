"""The walk through a network as one picture: pixels, filters, feature maps, ReLU, pooling, deeper layers, answer."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from pipeline.explain.explaining import Array, Explanation, Maps
from pipeline.images.preprocessing import Pixels
from pipeline.printable import printable
from pipeline.training.plotting import figure, styled, write

DRAWN_BY = "shardseer explain"
SHOWN_CLASSES = 5
TILES = 12  # maps side by side
NUMBERED = 10  # pixels a side up to which every pixel's value is written on it
ROW = 1.06  # inches
WIDTH = 15.0


def draw(found: Explanation, target: Path, title: str) -> None:
    """Draw the walk through the network as one PNG."""
    rows = _rows(found)
    head = 3.2
    with styled():
        made = figure(WIDTH, head + ROW * len(rows) + 0.5)
        made.set_layout_engine("none")
        height = made.get_figheight()
        made.text(0.015, 1 - 0.22 / height, printable(title), fontsize=15, fontweight="bold", va="top")
        made.text(0.015, 1 - 0.52 / height, _subtitle(found), fontsize=10, va="top", color="#52606d")
        _head(made, found, top=height - 0.82, height=head - 0.7)
        for number, (name, text, tiles, colours) in enumerate(rows):
            top = height - head - 0.45 - ROW * number
            _row(made, top, name, text, tiles, colours)
        write(made, target, dpi=110, drawn_by=DRAWN_BY)


def _subtitle(found: Explanation) -> str:
    bundle = found.bundle
    answer = int(found.probabilities.argmax())
    sure = f"{bundle.labels[answer]}: {found.probabilities[answer]:.1%}"
    if found.explained != answer:  # asked for by `--label`
        sure += f", and of {bundle.labels[found.explained]}, explained here: {found.probabilities[found.explained]:.1%}"
    calibrated = f"calibrated, T = {bundle.temperature:g}" if bundle.temperature else "not calibrated"
    said = f"{bundle.name} ({bundle.architecture}) says {sure} ({calibrated})."
    return f"{printable(said)} Read from top to bottom."


def _rows(found: Explanation) -> list[tuple[str, str, list[Any], str]]:
    """Name, explanation, tiles and colours of each row. Columns are the same maps down to the pooling."""
    rows: list[tuple[str, str, list[Any], str]] = []
    first = found.first
    if first is None or found.filters is None:
        return rows
    chosen = _liveliest((found.activated or first).maps)
    count, side = found.filters.shape[0], found.filters.shape[-1]
    stride = getattr(first.module, "stride", (1,))[0]
    rows.append(
        (
            "Filters",
            f"{count} of {side}×{side}×{found.filters.shape[1]},\n{min(TILES, count)} are shown; stride {stride}",
            [_filter_tile(found.filters[each]) for each in chosen],
            "signed",
        )
    )
    maps = [first.maps[each] for each in chosen]
    rows.append(("Feature maps", f"{_size(first)}: each filter's answer,\nblue below 0, red above", maps, "signed"))
    if found.activated is not None and found.activated.maps.shape[0] == count:
        name = type(found.activated.module).__name__
        kept = [found.activated.maps[each] for each in chosen]
        normalised = not np.array_equal(found.activated.maps > 0, first.maps > 0)
        how = "\nnormalised, then " if normalised else "\n"
        how += "negatives are 0" if name.startswith("ReLU") else "negatives fade"
        rows.append((f"After {name}", f"{_size(found.activated)}:{how}", kept, "plain"))
    if found.pooled is not None:
        pooled = found.pooled
        kind = "largest" if isinstance(pooled.module, nn.MaxPool2d) else "average"
        places = chosen if found.same_maps else _liveliest(pooled.maps)
        behind = "" if found.same_maps else ";\nmore convolutions lie before it"
        text = f"{_size(pooled)}: the {kind} of\neach window, map by map{behind}"
        rows.append(("After pooling", text, [pooled.maps[each] for each in places], "plain"))
    for layer in found.deeper:
        tiles = [layer.maps[each] for each in _liveliest(layer.maps)]
        rows.append(("Deeper", f"{_size(layer)}: {_short(layer.name)},\nthe liveliest maps", tiles, "plain"))
    return rows


def _short(name: str) -> str:
    return name.removeprefix("features.")


def _size(layer: Maps) -> str:
    maps, height, width = layer.maps.shape
    return f"{maps} maps of {width}×{height}"


def _liveliest(maps: Array) -> list[int]:
    """The maps that vary most over this picture, in the network's order."""
    order = np.argsort(-maps.reshape(len(maps), -1).std(axis=1), kind="stable")[:TILES]
    return sorted(int(each) for each in order)


def _filter_tile(weights: Array) -> Array:
    """A filter as signed numbers [height, width] for one channel, as a colour picture [height, width, 3] for RGB."""
    if weights.shape[0] != 3:
        return np.asarray(weights.mean(axis=0))
    spread = float(np.abs(weights).max()) or 1.0
    coloured: Array = (0.5 + weights.transpose(1, 2, 0) / (2 * spread)).astype(np.float32)
    return coloured


def _row(made: Any, top: float, name: str, text: str, tiles: list[Any], colours: str) -> None:
    """A caption at the left, tiles beside it; `top` in inches from the figure's lower edge."""
    height = made.get_figheight()
    made.text(0.015, top / height, name, fontsize=12, fontweight="bold", va="top")
    made.text(0.015, (top - 0.24) / height, text, fontsize=9, va="top", color="#52606d", linespacing=1.35)
    left, side = 3.05, ROW - 0.14
    for number, tile in enumerate(tiles):
        axes = made.add_axes(
            ((left + number * (side + 0.07)) / WIDTH, (top - side) / height, side / WIDTH, side / height)
        )
        _show(axes, tile, colours)


def _show(axes: Any, tile: Any, colours: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color="#d9dee4", linewidth=0.8)
    if tile.ndim == 3:
        axes.imshow(tile, interpolation="nearest")
    elif colours == "signed":
        spread = float(np.abs(tile).max()) or 1.0
        axes.imshow(tile, cmap="RdBu_r", vmin=-spread, vmax=spread, interpolation="nearest")
    else:
        axes.imshow(tile, cmap="magma", vmin=min(0.0, float(tile.min())), interpolation="nearest")


def _head(made: Any, found: Explanation, top: float, height: float) -> None:
    """The pixels, their channels, the heat map on them, and the answer as bars."""
    from matplotlib.colors import LinearSegmentedColormap

    whole, pixels = made.get_figheight(), found.pixels
    channels = pixels.shape[2]
    side = height - 0.5
    left = 0.22

    def place(width: float, title: str) -> Any:
        nonlocal left
        axes = made.add_axes((left / WIDTH, (top - 0.3 - side) / whole, width / WIDTH, side / whole))
        axes.set_title(title, fontsize=10)
        left += width + 0.3
        return axes

    grey = channels == 1
    axes = place(side, f"Input: {pixels.shape[1]}×{pixels.shape[0]} pixels, {'grey' if grey else 'RGB'}")
    _pixels(axes, pixels[..., 0] if grey else pixels)
    if not grey:
        small = (side - 0.16) / 3
        for number, (name, colour) in enumerate((("red", "#ff0000"), ("green", "#00c000"), ("blue", "#2060ff"))):
            below = top - 0.3 - (number + 1) * small - number * 0.08
            tile = made.add_axes((left / WIDTH, below / whole, small / WIDTH, small / whole))
            tile.imshow(pixels[..., number], cmap=LinearSegmentedColormap.from_list(name, ["black", colour, "white"]))
            tile.set_xticks([])
            tile.set_yticks([])
            tile.set_ylabel(name, fontsize=8, labelpad=2)
            if number == 0:
                tile.set_title("Channels", fontsize=10)
        left += small + 0.3
    label = _shortened(found.bundle.labels[found.explained], 22)
    axes = place(side, f"What spoke for “{label}”")
    _pixels(axes, _blended(pixels, found.heat))
    left += 1.6
    axes = place(WIDTH - left - 0.75, f"Output: {found.features} features → {_output(found)}")
    _bars(axes, found)


def _output(found: Explanation) -> str:
    if found.bundle.is_logistic:
        return "one logistic output p, and 1 − p"
    return f"fully connected → softmax over {len(found.probabilities):,} classes"


def _pixels(axes: Any, picture: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    if picture.ndim == 2 and max(picture.shape) <= NUMBERED:
        for row, column in np.ndindex(*picture.shape):
            value = int(picture[row, column])
            ink = "white" if value < 128 else "black"
            axes.text(column, row, f"{value}", ha="center", va="center", fontsize=7, color=ink)


def _blended(pixels: Pixels, heat: Array) -> npt.NDArray[np.uint8]:
    """The heat map laid over a paled picture."""
    import matplotlib as mpl

    grey = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2) / 255
    warm = mpl.colormaps["inferno"](heat)[..., :3]
    strength = 0.12 + 0.63 * heat[..., None]
    blended: npt.NDArray[np.uint8] = np.round(255 * ((1 - strength) * grey + strength * warm)).astype(np.uint8)
    return blended


def _bars(axes: Any, found: Explanation) -> None:
    order = np.argsort(-found.probabilities, kind="stable")[:SHOWN_CLASSES]
    names = [_shortened(found.bundle.labels[each], 24) for each in order]
    values = [float(found.probabilities[each]) for each in order]
    colours = ["#e07a1f" if each == found.explained else "#2563a8" for each in order]
    axes.barh(range(len(order)), values, color=colours, height=0.62)
    axes.set_yticks(range(len(order)), names)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.5, 1])
    axes.set_xlabel("probability" + ("" if found.bundle.temperature else " (not calibrated)"), fontsize=9)
    for place, value in enumerate(values):
        axes.text(value + 0.015, place, _percent(value), va="center", fontsize=9)


def _percent(value: float) -> str:
    return f"{value:.1%}" if value >= 0.001 else "< 0.1%"


def _shortened(name: str, most: int) -> str:
    name = printable(name)
    return name if len(name) <= most else name[: math.floor(most) - 1] + "…"
