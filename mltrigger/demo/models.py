"""Real models of the demonstration: an OCR in two versions, and a classifier of document types.

They are plain functions and a fitted pipeline, as a user would bring them. Nothing is downloaded.
The weights of the OCR (PP-OCRv6 small) are part of rapidocr. The classifier learns from
``training_texts``.
"""

import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from mltrigger.demo.pages import PageRefused, PageSource, open_pages
from mltrigger.demo.training_texts import TRAINING_TEXTS

__all__ = [
    "PageRefused",
    "PageText",
    "document_type_classifier",
    "page_files",
    "read_page",
    "read_page_enhanced",
]

if TYPE_CHECKING:
    from PIL.Image import Image
    from sklearn.pipeline import Pipeline

SMOOTHING_PX = 0.6
CUTOFF_PERCENT = 1
"""For `enhance`: the smoothing radius, and the shares of darkest and lightest pixels to ignore."""

# The engine's default takes all cores and starves the other workers of the machine.
THREADS_MAX = 2
"""The threads of the engine. ``OMP_NUM_THREADS`` may set fewer."""

ENGINE_SETTINGS: dict[str, Any] = {
    # Its log names absolute paths of the weights.
    "Global.log_level": "critical",
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    # A page of the demonstration is read at its own size; the default enlarges it for a third of
    # the time.
    "Det.limit_side_len": 96,
    # Alone and unpadded, a short text costs less, and its result does not hang on its neighbours in
    # the batch.
    "Rec.rec_batch_num": 1,
    "Rec.rec_img_shape": [3, 48, 64],
}


class PageText(TypedDict):
    """The text of one or more pages, its number of lines, and the mean confidence from 0 to 1."""

    text: str
    lines: int
    confidence: float


@dataclass(frozen=True)
class Fragment:
    """A piece of text on a page, with the place and height of its box in pixels.

    The page is turned straight.
    """

    text: str
    score: float
    x: float
    y: float
    height: float


class PageReader:
    """Reads pages with one OCR engine, shared by all threads.

    The first page loads the engine (seconds, 250 MB). The engine takes one page at a time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engine: Any = None

    def read(self, pages: Iterable["Image"]) -> PageText:
        """Return the text of *pages*, lines from top to bottom. Without text: ``""``, 0 and 0.0."""
        return joined([self._found(page) for page in pages])

    def _found(self, image: "Image") -> list[Fragment]:
        import numpy as np

        # OpenCV, inside the engine, takes colours as blue, green, red.
        pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]
        with self._lock:
            found = self._loaded()(pixels)
        return fragments(found.boxes, found.txts, found.scores)

    def _loaded(self) -> Any:
        if self._engine is None:
            from rapidocr import RapidOCR

            self._engine = RapidOCR(params=ENGINE_SETTINGS | _threads())
        return self._engine


def _threads() -> dict[str, Any]:
    # Idle threads of onnxruntime spin, and it does not read the variable itself.
    said = os.environ.get("OMP_NUM_THREADS", "")
    few = min(int(said), THREADS_MAX) if said.isdecimal() and int(said) else THREADS_MAX
    return {"EngineConfig.onnxruntime.intra_op_num_threads": few}


_readers: dict[int, PageReader] = {}


def shared_reader() -> PageReader:
    """Return the one reader of this process."""
    # One per process: the threads of an engine do not survive a fork, and its lock may be held.
    return _readers.setdefault(os.getpid(), PageReader())


def page_files() -> list[Path]:
    """Return the scanned pages of the package, sorted by name."""
    return sorted((Path(__file__).parent / "pages").glob("*.png"))


def read_page(page: PageSource) -> PageText:
    """Read a scanned page as it is: version 1.0.0 of the OCR.

    The same page always gives the same result. Safe in threads, which take turns, and after a fork.

    Parameters
    ----------
    page
        An image of text: its bytes, its path, or a binary file. A file is read from its start and
        stays open. All pages of a TIFF are read.

    Returns
    -------
    PageText
        ``text``: lines from top to bottom. ``lines``: how many. ``confidence``: the mean score of
        the pieces of text, rounded to 3 digits. A page without text gives ``""``, 0 and 0.0.

    Raises
    ------
    PageRefused
        The file is no PNG, JPEG or TIFF, is broken or an animation, or has more than
        `PAGE_PIXELS_MAX` pixels. It is a ``Reject``: such an event is dead at once.
    OSError
        The file of a path cannot be opened.
    """
    return shared_reader().read(open_pages(page))


def read_page_enhanced(page: PageSource) -> PageText:
    """Read a page after `enhance`: version 1.1.0, which also reads faded print."""
    return shared_reader().read(map(enhance, open_pages(page)))


def enhance(image: "Image") -> "Image":
    """Return *image* in grey, slightly smoothed, its contrast stretched from black to white."""
    from PIL import ImageFilter, ImageOps

    # Smooth first: the stretch would strengthen the grain of the paper too.
    smooth = image.convert("L").filter(ImageFilter.GaussianBlur(SMOOTHING_PX))
    return ImageOps.autocontrast(smooth, cutoff=CUTOFF_PERCENT)


def fragments(
    boxes: Any, texts: Sequence[str] | None, scores: Sequence[float] | None
) -> list[Fragment]:
    """Return the found texts with the slant of the page taken out.

    Parameters
    ----------
    boxes
        Four corners a text, clockwise from the top left: shape (texts, 4, 2). ``None`` for an empty
        page.
    texts, scores
        The text of each box, and its confidence from 0 to 1.
    """
    if boxes is None or not texts or not scores:
        return []
    run, rise = (boxes[:, 1] - boxes[:, 0]).sum(axis=0)
    slope = rise / run if run else 0.0
    x, y = boxes.mean(axis=1).T
    height = boxes[:, 3, 1] - boxes[:, 0, 1]
    return [Fragment(*found) for found in zip(texts, scores, x, y - slope * x, height, strict=True)]


def joined(pages: Sequence[Sequence[Fragment]]) -> PageText:
    """Return the text of several pages in their order."""
    lines = [line for found in pages for line in lines_of(found)]
    scores = [fragment.score for found in pages for fragment in found]
    confidence = sum(scores) / len(scores) if scores else 0.0
    return PageText(text="\n".join(lines), lines=len(lines), confidence=round(float(confidence), 3))


def lines_of(found: Sequence[Fragment]) -> list[str]:
    """Join fragments at one height to a line, from left to right. Sort the lines downwards."""
    rows: list[list[Fragment]] = []
    for fragment in sorted(found, key=lambda each: each.y):
        if rows and fragment.y - rows[-1][-1].y < fragment.height / 2:
            rows[-1].append(fragment)
        else:
            rows.append([fragment])
    return [" ".join(each.text for each in sorted(row, key=lambda each: each.x)) for row in rows]


def document_type_classifier() -> "Pipeline":
    """Return a fitted pipeline whose ``predict`` takes a DataFrame with a column ``text``.

    It answers ``'contract'``, ``'invoice'``, ``'letter'`` or ``'receipt'`` for each row. Each call
    fits it anew (about 50 ms), always to the same coefficients.
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
