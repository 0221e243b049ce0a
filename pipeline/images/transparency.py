"""Transparent pictures laid on white, unless nothing of them would be left.

Cameras and old tools write an alpha channel that is zero everywhere, though the picture is there: an alpha that hides
everything is no alpha. Everything is hidden where fewer than one pixel in a thousand is opaque enough to be seen; a
small thing on a large transparent page is not. Where there is only one colour beneath, there is no picture to save, and
the page is white. Premultiplied colours (TIFF) are zero where alpha is: nothing is beneath those either.
"""

from collections.abc import Callable

from PIL import Image

BACKGROUND = (255, 255, 255, 255)  # cut-out pictures are made for white pages
SEEN = 8  # of 255: the least alpha that anybody sees
HIDDEN = 1000  # one pixel in so many


def has_alpha(image: Image.Image) -> bool:
    """Whether a picture has an alpha channel, or a transparent colour or palette entry."""
    return image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info


def on_white(image: Image.Image, note: Callable[[str], None] = lambda text: None) -> Image.Image:
    """A picture that has alpha as RGB, on white; `note` hears where the alpha is ignored."""
    layer = image.convert("RGBA")
    alpha = layer.getchannel("A")
    if sum(alpha.histogram()[SEEN:]) * HIDDEN < layer.width * layer.height:
        beneath = layer.convert("RGB")
        if beneath.getcolors(maxcolors=1) is None:  # more than one colour
            note("Its transparency hides the whole picture: it was ignored.")
            return beneath
    return Image.alpha_composite(Image.new("RGBA", layer.size, BACKGROUND), layer).convert("RGB")
