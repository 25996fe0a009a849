"""The table in docs/formats.md: what `load_image` makes of a picture in each format, compared with what was stored.

python -m benchmarks.formats
"""

import io

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, ImageCms

import nst_helpers as nst
from tests.profiles import DISPLAY_P3

FORMATS = {  # name: Pillow's name, options of the best quality
    "PNG": ("PNG", {}),
    "JPEG": ("JPEG", {"quality": 100, "subsampling": 0}),
    "MPO": ("MPO", {"quality": 100, "subsampling": 0}),
    "WebP": ("WEBP", {"lossless": True}),
    "TIFF": ("TIFF", {}),
    "BMP": ("BMP", {}),
    "GIF": ("GIF", {}),
    "AVIF": ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
    "HEIC": ("HEIF", {"quality": 100, "chroma": 444}),
}
PROPERTIES = ("8 bits", "Display P3", "16 bits", "0 is white", "opacity", "orientation", "animation")


def photo() -> Image.Image:
    """Return a crop of a photograph, in few colors for the sake of GIF."""
    picture = Image.open("data/content/hopper.jpg").convert("RGB").resize((96, 128), Image.Resampling.LANCZOS)
    return picture.quantize(255).convert("RGB")


def stored(picture: Image.Image, name: str, **options) -> bytes:
    file = io.BytesIO()
    kind, best = FORMATS[name]
    picture.save(file, kind, **best, **options)
    return file.getvalue()


def error(found, expected) -> str:
    """Return the mean and maximum absolute difference of two pictures in levels of 0 to 255."""
    if found.shape != expected.shape:
        return "wrong size"
    difference = np.abs(found.astype(float) - expected)
    return f"{difference.mean():.2f}, {difference.max():.0f}"


def levels(image) -> np.ndarray:
    return 255 * image[0].permute(1, 2, 0).double().numpy()


def measured(name: str, what: str) -> str:
    """Return the error of one property in one format, or a dash if the format cannot hold it."""
    original = photo()
    expected = np.asarray(original)
    if what == "8 bits":
        return error(levels(nst.load_image(stored(original, name), None)), expected)
    if what == "Display P3":
        if name in ("GIF", "BMP"):
            return "–"
        right = ImageCms.profileToProfile(original, io.BytesIO(DISPLAY_P3), ImageCms.createProfile("sRGB"))
        return error(levels(nst.load_image(stored(original, name, icc_profile=DISPLAY_P3), None)), np.asarray(right))
    if what in ("16 bits", "0 is white"):
        if name not in (("PNG", "TIFF") if what == "16 bits" else ("TIFF",)):
            return "–"
        gray = np.asarray(original.convert("L")).astype(np.uint16) * 257 + 100 * (np.arange(96) % 2).astype(np.uint16)
        gray = np.minimum(gray, 65535).astype(np.uint16)
        tags = {"tiffinfo": {262: 0}} if what == "0 is white" else {}
        right = 255 - gray / 257 if what == "0 is white" else gray / 257
        return error(levels(nst.load_image(stored(Image.fromarray(gray), name, **tags), None))[..., 0], right)
    if what == "opacity":
        if name in ("JPEG", "MPO", "BMP"):
            return "–"
        opacity = Image.linear_gradient("L").resize(original.size)
        opacity = opacity.point(lambda value: 255 * (value > 127)) if name == "GIF" else opacity
        original.putalpha(opacity)
        found = nst.load_transparent(stored(original, name), None)[1]
        return error(levels(found)[..., 0], np.asarray(opacity))
    if what == "orientation":
        if name in ("BMP", "GIF"):
            return "–"
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        exif = exif.tobytes() if name == "HEIC" else exif
        right = np.asarray(original.transpose(Image.Transpose.ROTATE_270))
        return error(levels(nst.load_image(stored(original, name, exif=exif), None)), right)
    if name in ("JPEG", "BMP", "HEIC"):
        return "–"
    frames = [original.rotate(180)]
    return error(levels(nst.load_image(stored(original, name, save_all=True, append_images=frames), None)), expected)


def main() -> None:
    pillow_heif.register_heif_opener()
    print("| | " + " | ".join(PROPERTIES) + " |", "|---" * (len(PROPERTIES) + 1) + "|", sep="\n")
    for name in FORMATS:
        print(f"| {name} | " + " | ".join(measured(name, what) for what in PROPERTIES) + " |")


if __name__ == "__main__":
    main()
