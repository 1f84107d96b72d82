"""The real models of the demonstration: an OCR in two versions and a classifier of document types.

They are plain functions and a fitted pipeline, as a user would bring them. The weights of the OCR (PP-OCRv6 small) lie
in the wheel of rapidocr, and the classifier learns from the texts in ``training_texts``: nothing is downloaded.
"""

import io
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict

from mltrigger.demo.training_texts import TRAINING_TEXTS

if TYPE_CHECKING:
    from PIL.Image import Image
    from sklearn.pipeline import Pipeline

PageSource = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO
"""A page: the bytes of an image, the path of its file, or a binary file open for reading."""

PAGE_PIXELS_MAX = 25_000_000
"""The largest page that is decoded: more than A4 at 400 dots per inch (15 million), far less than an image bomb."""

PAGE_FORMATS = ("PNG", "JPEG", "TIFF")
"""The only formats tried: some others of Pillow start a program to decode."""

SMOOTHING_PX = 0.6
CUTOFF_PERCENT = 1
"""`enhance`: the radius of its smoothing, and the share of darkest and of lightest pixels that it ignores."""

ENGINE_SETTINGS: dict[str, Any] = {
    # Its log names the absolute paths of the weights.
    "Global.log_level": "critical",
    # All cores by default, which would starve the other workers of the machine.
    "EngineConfig.onnxruntime.intra_op_num_threads": 2,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    # A page of the demonstration is read at its own size; the default enlarges it for a third of the time.
    "Det.limit_side_len": 480,
    # Alone and unpadded, a short text costs less, and its result does not hang on its neighbours in the batch.
    "Rec.rec_batch_num": 1,
    "Rec.rec_img_shape": [3, 48, 64],
}


class PageRefused(ValueError):
    """Not a page that can be read, now or later: no image, a broken one or a huge one."""


class PageText(TypedDict):
    """What was read on a page: its text, the number of lines and the mean confidence from 0 to 1."""

    text: str
    lines: int
    confidence: float


@dataclass(frozen=True)
class Fragment:
    """A piece of text found on a page, and the place and height of its box in pixels, the page turned straight."""

    text: str
    score: float
    x: float
    y: float
    height: float


class PageReader:
    """Reads pages with one OCR engine, loaded at the first page (seconds, 250 MB) and shared by all threads.

    The engine is not made for calls at the same time, so a page waits for the page before it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engine: Any = None

    def read(self, image: "Image") -> PageText:
        """Return the text of *image*, lines from top to bottom; ``""``, 0 and 0.0 where there is none."""
        import numpy as np

        # OpenCV, inside the engine, counts colours from blue to red.
        pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]
        with self._lock:
            found = self._loaded()(pixels)
        return page_text(fragments(found.boxes, found.txts, found.scores))

    def _loaded(self) -> Any:
        if self._engine is None:
            from rapidocr import RapidOCR

            self._engine = RapidOCR(params=ENGINE_SETTINGS)
        return self._engine


_readers: dict[int, PageReader] = {}


def shared_reader() -> PageReader:
    """Return the one reader of this process; the same at every call."""
    # By process: the threads of an engine do not survive a fork, and its lock may have been held.
    return _readers.setdefault(os.getpid(), PageReader())


def page_files() -> list[Path]:
    """Return the scanned pages shipped with the package, in the order of their names."""
    return sorted((Path(__file__).parent / "pages").glob("*.png"))


def read_page(page: PageSource) -> PageText:
    """Read a scanned page as it is: version 1.0.0 of the demonstration's OCR.

    The same page gives the same result every time. Safe in threads, which take turns, and after a fork.

    Parameters
    ----------
    page
        An image of text: its bytes, its path, or a binary file (read from its start, left open).

    Returns
    -------
    PageText
        ``text`` (lines from top to bottom), ``lines`` (how many) and ``confidence`` (the mean score of the pieces of
        text, rounded to 3 digits; text that was not found does not lower it). A page without text gives ``""``, 0
        and 0.0.

    Raises
    ------
    PageRefused
        Not a PNG, JPEG or TIFF image, a broken one, or one of more than `PAGE_PIXELS_MAX` pixels.
    OSError
        The file of a path cannot be opened.
    """
    return shared_reader().read(open_page(page))


def read_page_enhanced(page: PageSource) -> PageText:
    """Read a page like `read_page`, after `enhance`: version 1.1.0, which can read faded print."""
    return shared_reader().read(enhance(open_page(page)))


def open_page(page: PageSource) -> "Image":
    """Return *page* in grey, decoded in full; raise `PageRefused` before decoding one with too many pixels."""
    if isinstance(page, str | os.PathLike):
        with Path(page).open("rb") as file:
            return _decoded(file)
    if isinstance(page, bytes | bytearray | memoryview):
        return _decoded(io.BytesIO(page))
    if not hasattr(page, "read"):
        raise TypeError(f"a page is bytes, a path or a binary file, not {type(page).__name__}")
    return _decoded(page)


def _decoded(file: BinaryIO) -> "Image":
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file, formats=PAGE_FORMATS) as image:
            _check_pixels(*image.size)
            return image.convert("L")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PageRefused(f"the page has more than {PAGE_PIXELS_MAX} pixels; send a smaller scan") from error
    except UnidentifiedImageError as error:
        raise PageRefused(f"the page is not an image in one of the formats {', '.join(PAGE_FORMATS)}") from error
    except (OSError, SyntaxError) as error:
        raise PageRefused(f"the page is a broken image: {error}") from error


def _check_pixels(width: int, height: int) -> None:
    if width * height > PAGE_PIXELS_MAX:
        raise PageRefused(f"the page has {width} x {height} pixels, more than {PAGE_PIXELS_MAX}; send a smaller scan")


def enhance(image: "Image") -> "Image":
    """Return *image* in grey, smoothed a little and its contrast stretched from black to white."""
    from PIL import ImageFilter, ImageOps

    # Smoothed first, or the stretch would strengthen the grain of the paper along with the print.
    smooth = image.convert("L").filter(ImageFilter.GaussianBlur(SMOOTHING_PX))
    return ImageOps.autocontrast(smooth, cutoff=CUTOFF_PERCENT)


def fragments(boxes: Any, texts: Sequence[str] | None, scores: Sequence[float] | None) -> list[Fragment]:
    """Return what the engine found, with the slant of the page taken out.

    Parameters
    ----------
    boxes
        Four corners a text, clockwise from the top left: an array of shape (texts, 4, 2); ``None`` for an empty page.
    texts, scores
        What each box says, and how sure the engine is of it, from 0 to 1.
    """
    if boxes is None or not texts or not scores:
        return []
    run, rise = (boxes[:, 1] - boxes[:, 0]).sum(axis=0)
    slope = rise / run if run else 0.0
    x, y = boxes.mean(axis=1).T
    height = boxes[:, 3, 1] - boxes[:, 0, 1]
    return [Fragment(*found) for found in zip(texts, scores, x, y - slope * x, height, strict=True)]


def page_text(found: Sequence[Fragment]) -> PageText:
    """Put fragments together: those at one height make a line, from left to right, and the lines go down."""
    rows: list[list[Fragment]] = []
    for fragment in sorted(found, key=lambda each: each.y):
        if rows and fragment.y - rows[-1][-1].y < fragment.height / 2:
            rows[-1].append(fragment)
        else:
            rows.append([fragment])
    lines = [" ".join(each.text for each in sorted(row, key=lambda each: each.x)) for row in rows]
    confidence = sum(each.score for each in found) / len(found) if found else 0.0
    return PageText(text="\n".join(lines), lines=len(lines), confidence=round(float(confidence), 3))


def document_type_classifier() -> "Pipeline":
    """Return a fitted pipeline whose ``predict`` takes a DataFrame with a column ``text``.

    It answers ``'contract'``, ``'invoice'``, ``'letter'`` or ``'receipt'`` for each row. Fitted anew at every call
    (about 50 ms), to the same coefficients every time.
    """
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline

    rows = [(kind, text) for kind, texts in TRAINING_TEXTS.items() for text in texts]
    frame = pd.DataFrame(rows, columns=["type", "text"])
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    steps = [
        ("columns", ColumnTransformer([("words", words, "text")])),
        ("type", LogisticRegression(C=10.0, random_state=0)),
    ]
    return Pipeline(steps).fit(frame[["text"]], frame["type"])
