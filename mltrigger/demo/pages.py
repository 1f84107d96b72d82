"""Reads pages as phones, scanners and programs save them.

A page is decoded in full, turned upright, and made black on white in grey. Else it is refused by
name.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mltrigger.errors import Reject

if TYPE_CHECKING:
    from PIL.Image import Image

PageSource = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO
"""A page: the bytes of an image, the path of its file, or an open binary file."""

PAGE_PIXELS_MAX = 25_000_000
"""The largest page to decode. A4 at 400 dots per inch has 15 million, an image bomb far more."""

PAGES_MAX = 100
"""The most pages of one file."""

PAGE_FORMATS = ("PNG", "JPEG", "TIFF")
"""The only formats tried. Pillow starts a program to decode some others."""

_ORIENTATION, _NEW_SUBFILE, _PHOTOMETRIC, _SAMPLE_FORMAT = 274, 254, 262, 339
"""Tags of TIFF 6.0. EXIF has the first one too."""
_REDUCED, _MASK = 1, 4
_WHITE = 255


class PageRefused(Reject, ValueError):
    """The page can never be read: no image, broken, huge, or of an unknown kind.

    As a ``Reject`` it ends its event at once.
    """


def open_pages(page: PageSource) -> Iterator["Image"]:
    """Yield the pages of an image in grey.

    Raise `PageRefused` before decoding an image with too many pixels. A TIFF may have several
    pages. Its previews and masks are none. Other images have one page.
    """
    if isinstance(page, str | os.PathLike):
        with Path(page).open("rb") as file:
            yield from _decoded(file)
    elif isinstance(page, bytes | bytearray | memoryview):
        yield from _decoded(io.BytesIO(page))
    elif hasattr(page, "read"):
        yield from _decoded(page)
    else:
        raise TypeError(f"a page is bytes, a path or a binary file, not {type(page).__name__}")


def _decoded(file: BinaryIO) -> Iterator["Image"]:
    from PIL import Image, UnidentifiedImageError

    if not file.read(1):
        raise PageRefused("the page is an empty file")
    file.seek(0)
    try:
        with Image.open(file, formats=PAGE_FORMATS) as image:
            for number in _numbers(image):
                image.seek(number)
                _check_pixels(*image.size)
                yield grey(image)
    except PageRefused:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PageRefused(
            f"the page has more than {PAGE_PIXELS_MAX} pixels; send a smaller scan"
        ) from error
    except UnidentifiedImageError as error:
        raise PageRefused(
            f"the page is not an image in one of the formats {', '.join(PAGE_FORMATS)}"
        ) from error
    except Exception as error:  # a broken file may bring about anything in a decoder
        if isinstance(error, MemoryError) or (
            isinstance(error, OSError) and error.errno is not None
        ):
            raise  # this machine's trouble, not the page's
        raise PageRefused(f"the page is a broken image: {error}") from error


def _numbers(image: Any) -> Iterator[int]:
    """Yield the numbers of the frames that are pages."""
    count = getattr(image, "n_frames", 1)
    if image.format == "PNG" and count > 1:
        raise PageRefused(f"the page is an animation of {count} frames: send one of them")
    if image.format != "TIFF":  # a JPEG of a camera may hold previews and depth as well
        yield 0
        return
    if count > PAGES_MAX:
        raise PageRefused(f"the file has {count} pages, more than {PAGES_MAX}: send it in parts")
    for number in range(count):
        image.seek(number)
        if number == 0 or not image.tag_v2.get(_NEW_SUBFILE, 0) & (_REDUCED | _MASK):
            yield number


def _check_pixels(width: int, height: int) -> None:
    if width * height > PAGE_PIXELS_MAX:
        raise PageRefused(
            f"the page has {width} x {height} pixels, more than {PAGE_PIXELS_MAX}; send a smaller"
            " scan"
        )


def grey(image: Any) -> "Image":
    """Return *image* in grey (``L``), 8 bits a sample, upright and on white paper."""
    from PIL import ImageOps

    tags = dict(getattr(image, "tag_v2", {}))
    density = _density(image)
    image.load()  # turns a TIFF itself
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        flat = _scaled(upright, tags)
    elif upright.mode == "LAB":
        flat = upright.getchannel("L")
    elif upright.has_transparency_data:
        flat = _on_paper(upright)
    else:
        flat = _converted(upright, "L")
    return _square(flat, density)


def _converted(image: "Image", mode: str) -> "Image":
    try:
        return image.convert(mode)
    except ValueError as error:
        raise PageRefused(
            f"the page has colours of a kind that is not known, {image.mode}"
        ) from error


def _scaled(image: Any, tags: dict[int, Any]) -> "Image":
    """Scale samples of more than 8 bits by the fewest bits that hold them all.

    Fractions span 0 to 1.
    """
    import numpy as np
    from PIL import Image

    samples = np.asarray(image)
    # Pillow reads unsigned samples as signed ones
    if image.mode == "I" and tags.get(_SAMPLE_FORMAT) == (1,) and samples.min() < 0:
        samples = samples.view(np.uint32)
    values = samples.astype("float64")
    known = np.isfinite(values)
    low, high = _range(values[known], image.mode == "F")
    levels = np.where(known, (values - low) / (high - low) * _WHITE, _WHITE).round().astype("uint8")
    # zero is white here. Pillow inverts it only for fewer bits
    inverted = tags.get(_PHOTOMETRIC) == 0
    transparent = image.info.get("transparency")
    flat = Image.fromarray(_WHITE - levels if inverted else levels)
    if isinstance(transparent, int):
        flat.paste(_WHITE, mask=Image.fromarray(samples == transparent))
    return flat


def _range(values: Any, fractions: bool) -> tuple[float, float]:
    """Return black and white of samples of unknown depth. *fractions* may span 0 to 1."""
    lowest, highest = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    most = max(highest, -lowest - 1 if not fractions else -lowest, 0.0)
    if fractions and most <= 1.0:
        return (-1.0 if lowest < 0 else 0.0), 1.0
    top = 2.0 ** max(7 if lowest < 0 else 8, int(most).bit_length())
    return (-top if lowest < 0 else 0.0), top - 1


def _on_paper(image: "Image") -> "Image":
    """Lay a transparent image on white paper. Light ink without a ground gets black paper."""
    import numpy as np
    from PIL import Image

    colours = _converted(image, "RGBA")
    ink, cover = (
        np.asarray(colours.convert("L"), dtype="float64"),
        np.asarray(colours.getchannel("A"), dtype="float64"),
    )
    is_light = (
        cover.mean() < _WHITE / 2
        and cover.sum() > 0
        and (ink * cover).sum() / cover.sum() > _WHITE / 2
    )
    paper = Image.new("RGBA", colours.size, (0, 0, 0, _WHITE) if is_light else (_WHITE,) * 4)
    return Image.alpha_composite(paper, colours).convert("L")


def _density(image: Any) -> tuple[float, float]:
    """Return the dots an inch across and down of the upright image. Equal when unknown."""
    found = image.info.get("dpi") or image.info.get("jfif_density") or (1, 1)
    try:
        across, down = (float(value) for value in found)
    except (TypeError, ValueError, ZeroDivisionError):
        return 1.0, 1.0
    if not (across > 0 and down > 0 and 0.25 <= across / down <= 4):
        return 1.0, 1.0
    return (down, across) if image.getexif().get(_ORIENTATION, 1) >= 5 else (across, down)


def _square(image: "Image", density: tuple[float, float]) -> "Image":
    """Stretch a page with oblong pixels, such as a fax."""
    across, down = density
    if 0.9 < across / down < 1.1:
        return image
    finest = max(across, down)
    size = round(image.width * finest / across), round(image.height * finest / down)
    _check_pixels(*size)
    return image.resize(size)
