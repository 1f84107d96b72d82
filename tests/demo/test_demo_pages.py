"""The demonstration's OCR reads a page as any device saves it, or refuses it by name; never another
text with confidence.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from shared import wait_until

import mltrigger as mt
from mltrigger.demo.models import PageReader, PageRefused, page_files, read_page
from mltrigger.demo.pages import PAGES_MAX, open_pages
from mltrigger.demo.story import ocr_1_0

SECOND, FIRST = (Image.open(path).convert("L") for path in page_files()[:2])
PAGE = FIRST
INK = Image.merge("LA", (Image.new("L", PAGE.size, 0), ImageOps.invert(PAGE)))
LIGHT_INK = Image.merge("LA", (Image.new("L", PAGE.size, 255), ImageOps.invert(PAGE)))
WAYS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How the pixels lie for each orientation of EXIF, when the page itself is upright."""

pytestmark = pytest.mark.xdist_group("demo")  # one process loads the weights


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def tiff(samples: np.ndarray[Any, Any], **tags: int) -> bytes:
    """Return an uncompressed grey TIFF of *samples* as they are, which Pillow cannot always write
    itself.
    """
    height, width = samples.shape
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    photometric, bits = tags.get("photometric", 1), samples.dtype.itemsize * 8
    entries = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: height,
        279: samples.nbytes,
        339: kind,
    }
    directory = b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items())
    )
    return (
        struct.pack("<2sHI", b"II", 42, 8 + samples.nbytes)
        + samples.tobytes()
        + struct.pack("<H", len(entries))
        + directory
        + bytes(4)
    )


def turned(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    way = WAYS[orientation]
    image = PAGE.convert("RGB")
    return saved(image if way is None else image.transpose(way), kind, exif=exif)


def palette(**options: Any) -> bytes:
    return saved(PAGE.convert("RGB").quantize(16), "PNG", **options)


def difference(raw: bytes, page: Image.Image = PAGE) -> float:
    """Return how much the page of *raw* differs from *page*, 0 to 255 on average."""
    (found,) = open_pages(raw)
    assert (found.mode, found.size) == ("L", page.size)
    return float(np.abs(np.asarray(found, dtype=float) - np.asarray(page, dtype=float)).mean())


GREY = np.asarray(PAGE)
KINDS: dict[str, Callable[[], bytes]] = {
    "8-bit grey": lambda: saved(PAGE, "PNG"),
    "grey, white is zero": lambda: tiff(255 - GREY, photometric=0),
    "16-bit PNG": lambda: saved(Image.fromarray(GREY.astype("uint16") * 257), "PNG"),
    "16-bit TIFF": lambda: tiff(GREY.astype("uint16") * 257),
    "16-bit TIFF, white is zero": lambda: tiff(65535 - GREY.astype("uint16") * 257, photometric=0),
    "12 of 16 bits": lambda: tiff(GREY.astype("uint16") * 16),
    "signed 16-bit TIFF": lambda: tiff((GREY.astype("int32") * 257 - 32768).astype("int16")),
    "32-bit TIFF": lambda: tiff(GREY.astype("uint32") * 16843009),
    "16 of 32 bits": lambda: saved(PAGE.convert("I").point(lambda v: v * 257), "TIFF"),
    "8 of 32 bits": lambda: saved(PAGE.convert("I"), "TIFF"),
    "float to 1": lambda: tiff(GREY.astype("float32") / 255),
    "float to 255": lambda: tiff(GREY.astype("float32")),
    "float with holes": lambda: tiff(np.where(GREY == 255, np.nan, GREY).astype("float32")),
    "colours": lambda: saved(PAGE.convert("RGB"), "JPEG", quality=95),
    "CMYK JPEG": lambda: saved(PAGE.convert("CMYK"), "JPEG", quality=95),
    "CMYK TIFF": lambda: saved(PAGE.convert("CMYK"), "TIFF"),
    "YCbCr TIFF": lambda: saved(PAGE.convert("YCbCr"), "TIFF"),
    "LAB TIFF": lambda: saved(
        Image.merge("LAB", (PAGE, *[Image.new("L", PAGE.size, 128)] * 2)), "TIFF"
    ),
    "palette": palette,
    "ink on transparent": lambda: saved(INK, "PNG"),
    "ink on transparent, colours": lambda: saved(INK.convert("RGBA"), "PNG"),
    "ink on transparent TIFF": lambda: saved(INK.convert("RGBA"), "TIFF"),
    "opaque with alpha": lambda: saved(PAGE.convert("RGBA"), "PNG"),
    "fax, half as fine down": lambda: saved(
        PAGE.resize((PAGE.width, PAGE.height // 2)), "TIFF", dpi=(204, 102)
    ),
    **{
        f"{kind}, orientation {n}": lambda n=n, kind=kind: turned(n, kind)
        for kind in ("PNG", "JPEG", "TIFF")
        for n in WAYS
    },  # type: ignore[misc]
}


@pytest.mark.parametrize("kind", KINDS)
def test_page_is_the_same_however_it_is_saved(kind: str) -> None:
    assert difference(KINDS[kind]()) < 8


def test_page_of_one_bit_is_black_and_white() -> None:
    black_and_white = PAGE.point(lambda v: 255 * (v > 127))

    assert difference(saved(black_and_white.convert("1"), "PNG"), black_and_white) == 0


def test_transparent_colour_of_a_palette_is_paper() -> None:
    dark = Image.new("P", (40, 20), 1)
    dark.putpalette([0, 0, 0, 200, 0, 0])
    dark.paste(0, (0, 0, 20, 20))

    (found,) = open_pages(saved(dark, "PNG", transparency=0))

    assert (found.getpixel((5, 5)), found.getpixel((30, 5))) == (255, 60)


def test_light_ink_on_transparent_is_laid_on_dark_paper() -> None:
    assert difference(saved(LIGHT_INK, "PNG"), ImageOps.invert(PAGE)) < 8


def test_all_pages_of_a_fax_are_read_and_previews_are_none() -> None:
    preview = PAGE.resize((70, 50)).convert("1")
    preview.encoderinfo = {"tiffinfo": {254: 1}}  # type: ignore[attr-defined]
    raw = saved(
        PAGE.convert("1"),
        "TIFF",
        save_all=True,
        append_images=[preview, SECOND.convert("1")],
        compression="group4",
    )
    assert [page.size for page in open_pages(raw)] == [PAGE.size, SECOND.size]

    read = read_page(raw)

    firsts = [
        read_page(saved(page.convert("1"), "PNG"))["text"].splitlines()[0]
        for page in (PAGE, SECOND)
    ]
    assert [line for line in read["text"].splitlines() if line in firsts] == firsts
    assert read["lines"] == len(read["text"].splitlines()) and read["confidence"] > 0.9


def bomb() -> bytes:
    return saved(Image.new("1", (20_000, 20_000)), "PNG")


def many() -> bytes:
    dot = Image.new("1", (1, 1))
    return saved(dot, "TIFF", save_all=True, append_images=[dot] * PAGES_MAX)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "the page is an empty file"),
    "text": (
        lambda: b"these are notes, in plain text\n" * 20,
        "not an image in one of the formats PNG, JPEG, TIFF",
    ),
    "GIF": (lambda: saved(PAGE, "GIF"), "not an image in one of the formats"),
    "bomb": (bomb, "more than 25000000"),
    "animation": (
        lambda: saved(PAGE, "PNG", save_all=True, append_images=[SECOND]),
        "an animation of 2 frames: send one of them",
    ),
    "too many pages": (many, f"has {PAGES_MAX + 1} pages, more than {PAGES_MAX}: send it in parts"),
    **{
        f"{kind}, first {part} %": (
            lambda kind=kind, part=part: cut(saved(PAGE, kind), part),
            "broken|not an image",
        )  # type: ignore[misc]
        for kind in ("PNG", "JPEG", "TIFF")
        for part in (1, 50, 95)
    },
}


def cut(raw: bytes, percent: int) -> bytes:
    return raw[: len(raw) * percent // 100]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_page_is_refused_by_name(kind: str) -> None:
    make, words = REFUSED[kind]

    with pytest.raises(PageRefused, match=words) as refused:
        list(open_pages(make()))

    assert isinstance(refused.value, mt.Reject)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_bytes_are_read_or_refused_and_nothing_else() -> None:
    chance = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "TIFF"):
        raw = np.frombuffer(saved(PAGE.resize((140, 100)), kind), dtype="uint8")
        for _ in range(100):
            damaged = raw.copy()
            damaged[chance.integers(0, min(len(raw), 400), 3)] = chance.integers(0, 256, 3)
            with contextlib.suppress(PageRefused):
                list(open_pages(damaged.tobytes()))


def test_trouble_of_this_machine_is_not_the_pages(tmp_path: Path) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 5_000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    with pytest.raises(OSError, match="Input/output error"):
        list(open_pages(Failing(saved(PAGE, "TIFF"))))


def test_file_that_is_no_image_is_dead_after_one_attempt(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("these are notes, in plain text\n")
    with mt.connect("memory://") as bus:
        sub = bus.subscribe(tmp_path / "*.png", ocr_1_0, max_attempts=5)
        wait_until(lambda: sub.depth().dead)

        (attempt,) = sub.invocations().itertuples()

    assert (attempt.outcome, attempt.attempt) == ("dead", 1)
    assert "not an image" in attempt.error


@pytest.mark.parametrize(
    ("said", "threads"), [(None, 2), ("1", 1), ("2", 2), ("64", 2), ("0", 2), ("", 2), ("2,1", 2)]
)
def test_engine_has_two_threads_or_fewer_where_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch, said: str | None, threads: int
) -> None:
    made = []

    def engine(params: dict[str, Any]) -> Callable[[object], SimpleNamespace]:
        made.append(params["EngineConfig.onnxruntime.intra_op_num_threads"])
        return lambda pixels: SimpleNamespace(boxes=None, txts=None, scores=None)

    monkeypatch.setattr("rapidocr.RapidOCR", engine)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)

    assert PageReader().read([PAGE])["text"] == ""
    assert made == [threads]
