"""Render the scanned pages of the demonstration: ``python -m benchmarks.render_pages [FOLDER]``.

The same Pillow renders the same pixels: every page has its own seed.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

PAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "contract-0128.png": (
        "contract",
        (
            "SERVICE AGREEMENT",
            "Larkfield Robotics GmbH, the Client",
            "Tessa Brandt, the Contractor",
            "1. The Contractor shall maintain the",
            "sorting line listed in Annex A.",
            "2. The term is twenty-four months.",
            "3. Either party may terminate in writing.",
            "Signed in Ulm on 28 January 2026",
        ),
    ),
    "invoice-0417.png": (
        "invoice",
        (
            "NORDLICHT OFFICE SUPPLY",
            "Invoice No. 2026-0417",
            "Bill to: Harbour Dental Practice",
            "Toner cartridge, 4 pcs 236.00",
            "Copy paper A4, 20 boxes 480.00",
            "VAT 19 % 136.04",
            "Total due EUR 852.04",
            "Payment within 30 days",
        ),
    ),
    "invoice-0522.png": (
        "invoice",
        (
            "Calder & Finch Translations",
            "INVOICE 88-0522",
            "Customer: Meridian Pumps Ltd",
            "Manual, 12400 words 1488.00",
            "Express surcharge 148.80",
            "Tax 20 % 327.36",
            "Amount payable GBP 1964.16",
        ),
    ),
    "letter-0306.png": (
        "letter",
        (
            "Greyhaven, 6 March 2026",
            "Dear Mrs Okafor,",
            "we were very happy to hear that the",
            "children enjoyed the old library.",
            "Please visit us again in May, when the",
            "garden is in bloom.",
            "With warm regards,",
            "Jonas Wetherby",
        ),
    ),
    "receipt-1183.png": (
        "receipt",
        (
            "CAFE LINDENHOF",
            "Table 14",
            "2 Cappuccino 7.80",
            "1 Apple strudel 5.20",
            "1 Orange juice 3.90",
            "TOTAL EUR 16.90",
            "Cash 20.00",
            "Change 3.10",
        ),
    ),
    "receipt-2291.png": (
        "receipt",
        (
            "BRIGHTWATER HARDWARE",
            "Till 03 14.02.2026 17:42",
            "Wood screws 4x40 6.49",
            "Masking tape 50 m 4.25",
            "Paint brush set 12.90",
            "TOTAL 23.64",
            "Card ending 5082 approved",
        ),
    ),
}
"""File name -> (document type, printed lines from top to bottom). An amount at the end of a line is
set flush right.
"""


@dataclass(frozen=True)
class Scan:
    """How one page is set and scanned. Greys run from 0 (black) to 255 (white).

    Attributes
    ----------
    ink, last_ink
        The grey of the first line and of the last one; those between fade evenly.
    grey_step
        The distance of the greys that are kept. A scanner of 4 bits keeps every seventeenth.
    """

    seed: int
    font: str
    font_px: int
    size_px: tuple[int, int]
    rotation_deg: float
    ink: int = 46
    last_ink: int = 46
    paper: int = 236
    blur_px: float = 0.5
    noise: float = 4.2
    grey_step: int = 17


SCANS: dict[str, Scan] = {
    "contract-0128.png": Scan(128, "DejaVuSerif.ttf", 23, (720, 520), -0.5),
    "invoice-0417.png": Scan(417, "DejaVuSans.ttf", 25, (700, 500), 0.6),
    "invoice-0522.png": Scan(
        522, "DejaVuSerifCondensed.ttf", 28, (700, 500), -0.8, ink=62, last_ink=70, paper=228
    ),
    "letter-0306.png": Scan(
        306, "DejaVuSerif.ttf", 24, (720, 500), 0.4, ink=70, last_ink=62, paper=240
    ),
    "receipt-1183.png": Scan(
        1183, "DejaVuSansMono.ttf", 24, (700, 500), 0.9, ink=58, last_ink=84, paper=232
    ),
    # Thermal paper that has faded: at its end, the ink is nearly as light as the paper.
    "receipt-2291.png": Scan(
        2291,
        "DejaVuSansMono.ttf",
        24,
        (700, 500),
        -0.7,
        ink=204,
        last_ink=228,
        paper=232,
        noise=0.85,
        grey_step=4,
    ),
}

MARGIN_PX = 48
LAMP_FALL = 2
AMOUNT = re.compile(r"(?P<label>.+) (?P<amount>\d+\.\d\d)")


def render_page(name: str) -> "Image":
    """Return the page *name* as a greyscale image; the same pixels every time.

    Raises
    ------
    FileNotFoundError
        DejaVu, the font of the pages, is not installed.
    """
    scan = SCANS[name]
    _, lines = PAGES[name]
    return _scanned(_printed(lines, scan), scan)


def render_pages(folder: Path) -> list[Path]:
    """Write every page into *folder* and return the files; existing ones are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in sorted(PAGES)]
    for file in files:
        render_page(file.name).save(file, optimize=True)
    return files


def _printed(lines: Sequence[str], scan: Scan) -> "Image":
    from PIL import Image, ImageDraw

    sheet = Image.new("L", scan.size_px, scan.paper)
    draw = ImageDraw.Draw(sheet)
    font = _font(scan)
    width, height = scan.size_px
    pitch = (height - 2 * MARGIN_PX) / len(lines)
    for row, line in enumerate(lines):
        y = MARGIN_PX + row * pitch
        ink = round(scan.ink + (scan.last_ink - scan.ink) * row / (len(lines) - 1))
        left, right = _columns(line)
        draw.text((MARGIN_PX, y), left, fill=ink, font=font)
        draw.text((width - MARGIN_PX, y), right, fill=ink, font=font, anchor="ra")
    return sheet


def _columns(line: str) -> tuple[str, str]:
    found = AMOUNT.fullmatch(line)
    return (found["label"], found["amount"]) if found else (line, "")


def _font(scan: Scan) -> "FreeTypeFont":
    from PIL import ImageFont

    try:
        # The basic layout, because the other one depends on what else is installed.
        return ImageFont.truetype(scan.font, scan.font_px, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise FileNotFoundError(
            f"no font {scan.font!r}; install the DejaVu fonts (fonts-dejavu-core)"
        ) from error


def _scanned(sheet: "Image", scan: Scan) -> "Image":
    import numpy as np
    from PIL import Image, ImageFilter

    turned = sheet.rotate(
        scan.rotation_deg, resample=Image.Resampling.BICUBIC, fillcolor=scan.paper
    )
    soft = turned.filter(ImageFilter.GaussianBlur(scan.blur_px))
    chance = np.random.default_rng(scan.seed)
    pixels = np.asarray(soft, dtype=np.float64)
    height, width = pixels.shape
    # The lamp of a scanner is a little darker towards one side.
    pixels = pixels - np.linspace(0, LAMP_FALL, width)
    pixels = pixels + chance.normal(0, scan.noise, (height, width))
    return Image.fromarray(_quantised(pixels, scan))


def _quantised(pixels: "NDArray[np.float64]", scan: Scan) -> "NDArray[np.uint8]":
    """Round to a few greys between ink and paper, which makes the file several times smaller."""
    import numpy as np

    level = np.rint((pixels - scan.paper) / scan.grey_step)
    grey: NDArray[np.uint8] = np.clip(scan.paper + level * scan.grey_step, 0, 255).astype(np.uint8)
    return grey


def main(arguments: Sequence[str]) -> None:
    """Render into the folder named in *arguments*, or else into ``mltrigger/demo/pages``."""
    folder = (
        Path(arguments[0])
        if arguments
        else Path(__file__).parents[1] / "mltrigger" / "demo" / "pages"
    )
    for file in render_pages(folder):
        sys.stdout.write(f"{file.name} {file.stat().st_size} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1:])
