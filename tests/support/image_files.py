"""Small images of every format and mode that the product reads, as bytes, and damage to them."""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, features

from tests.support.mutations import VARINTS, damaged_bytes

SIDE = 20
PNG_START = b"\x89PNG\r\n\x1a\n"
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
METADATA = (
    b"Exif\0\0",
    b"MM\0*",
    b"II*\0",
    b"xmpmeta",
    b"eXIf",
    b"EXIF",
    b"XMP ",
    b"MPF\0",
    b"tiff:Orientation",
    b"tRNS",
    b"acTL",
)


def exif(orientation: int = 6) -> Image.Exif:
    """EXIF with an orientation, texts, a fraction and a folder inside."""
    made = Image.Exif()
    made[0x0112] = orientation
    made[0x010F] = "maker"
    made[0x011A] = 72.0
    made.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0words"
    return made


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    """The bytes of a file."""
    held = io.BytesIO()
    image.copy().save(held, format, **options)  # a save leaves settings in the image
    return held.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *others: tuple[bytes, bytes]) -> bytes:
    """A PNG of these rows, filter bytes included, with `others` as chunks before them; what Pillow itself cannot write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), *others, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return PNG_START + b"".join(chunk(kind, content) for kind, content in chunks)


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG, with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@cache
def every_kind() -> dict[str, bytes]:
    """By name, whole files of all formats and modes."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    rgba, grey = rgb.convert("RGBA"), rgb.convert("L")
    rgba.putalpha(grey)
    deep = Image.fromarray(rng.integers(0, 4096, (SIDE, SIDE), dtype=np.uint16))
    big = Image.frombytes("I;16B", deep.size, np.asarray(deep).astype(">u2").tobytes())
    whole = Image.fromarray(rng.integers(-1000, 3000, (SIDE, SIDE), dtype=np.int32))
    real = Image.fromarray(rng.random((SIDE, SIDE), dtype=np.float32))
    palette, black = rgb.quantize(16), grey.convert("1")
    turned = [rgb.rotate(angle) for angle in (90, 180)]
    made = {
        "exif.jpg": saved(rgb, "JPEG", exif=exif(), xmp=XMP.encode()),
        "xmp.jpg": saved(rgb, "JPEG", xmp=XMP.encode()),
        "grey.jpg": saved(grey, "JPEG", progressive=True),
        "cmyk.jpg": saved(rgb.convert("CMYK"), "JPEG"),
        "several.jpg": saved(rgb, "MPO", save_all=True, append_images=[image.copy() for image in turned]),
        "rgb.png": saved(rgb, "PNG", exif=exif()),
        "xmp.png": png(SIDE, SIDE, 8, 0, (b"\0" + bytes(SIDE)) * SIDE, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.encode())),
        "rgba.png": saved(rgba, "PNG"),
        "la.png": saved(rgba.convert("LA"), "PNG"),
        "one.png": saved(black, "PNG"),
        "two.png": saved(rgb.quantize(4), "PNG", bits=2),
        "four.png": saved(palette, "PNG", bits=4, transparency=b"\x00\x80\xff"),
        "clear.png": saved(grey, "PNG", transparency=3),
        "clear16.png": png(SIDE, SIDE, 16, 0, (b"\0" + bytes(range(2 * SIDE))) * SIDE, (b"tRNS", b"\0\1")),
        "deep.png": saved(deep, "PNG"),
        "deep_rgb.png": png(SIDE, SIDE, 16, 2, (b"\0" + bytes(range(6 * SIDE))) * SIDE),
        "frames.png": saved(rgb, "PNG", save_all=True, append_images=[image.copy() for image in turned]),
        "still.gif": saved(palette, "GIF", transparency=1),
        "frames.gif": saved(rgb, "GIF", duration=50, save_all=True, append_images=[image.copy() for image in turned]),
        "lossy.webp": saved(rgb, "WEBP", exif=exif(), xmp=XMP.encode()),
        "lossless.webp": saved(rgba, "WEBP", lossless=True),
        "frames.webp": saved(rgb, "WEBP", save_all=True, append_images=[image.copy() for image in turned]),
        "rgb.bmp": saved(rgb, "BMP"),
        "palette.bmp": saved(palette, "BMP"),
        "one.bmp": saved(black, "BMP"),
        "grey.ppm": saved(grey, "PPM"),
        "rgb.ppm": saved(rgb, "PPM"),
        "one.ppm": saved(black, "PPM"),
        "deep.ppm": saved(deep, "PPM"),
        "float.ppm": saved(real, "PPM"),
        "plain.ppm": b"P3\n2 2 255\n" + b" ".join(b"%d" % value for value in range(12)),
        "exif.tif": saved(rgb, "TIFF", exif=exif(), tiffinfo={274: 6}),
        "deep.tif": saved(deep, "TIFF"),
        "big.tif": saved(big, "TIFF"),
        "whole.tif": saved(whole, "TIFF"),
        "float.tif": saved(real, "TIFF"),
        "frames.tif": saved(rgb, "TIFF", save_all=True, append_images=[image.copy() for image in turned]),
        "fax.tif": saved(black, "TIFF", compression="group4"),
    }
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        made[f"{compression}.tif"] = saved(rgb, "TIFF", compression=compression)
    if features.check("avif"):
        made |= {"rgb.avif": saved(rgb, "AVIF", exif=exif()), "clear.avif": saved(rgba, "AVIF")}
    return made


def damaged_image(files: dict[str, bytes], rng: random.Random) -> tuple[str, bytes]:
    """The name and bytes of a file drawn from these, damaged: anywhere, in its metadata, in a chunk whose checksum is right
    again, or with the beginning or the end of another.
    """
    name = rng.choice(sorted(files))
    whole, other = files[name], files[rng.choice(sorted(files))]
    kind = rng.random()
    if kind < 0.5:
        return name, damaged_bytes(whole, rng)
    if kind < 0.7:
        return name, _near_metadata(whole, rng)
    if kind < 0.8 and whole.startswith(PNG_START):
        return name, _in_a_chunk(whole, rng)
    at = rng.choice((4, 8, 16, 32, 64, len(other) // 2))
    return name, other[:at] + whole[at:] if rng.random() < 0.5 else whole[: len(whole) // 2] + other[len(other) // 2 :]


def _near_metadata(whole: bytes, rng: random.Random) -> bytes:
    """Bytes behind a mark of metadata changed, so that the pixels stay whole."""
    places = [at for mark in METADATA if (at := whole.find(mark)) >= 0] or [0]
    at, held = rng.choice(places), bytearray(whole)
    for _ in range(rng.choice((1, 2, 5))):
        place = min(len(held) - 1, at + rng.randrange(160))
        if rng.random() < 0.3:
            piece = rng.choice(VARINTS)
            held[place : place + len(piece)] = piece
        else:
            held[place] = rng.choice((0, 1, 2, 5, 7, 13, 127, 128, 255, held[place] ^ 1 << rng.randrange(8)))
    return bytes(held)


def _in_a_chunk(whole: bytes, rng: random.Random) -> bytes:
    """A PNG with one chunk damaged, doubled, moved or of another length, all checksums right."""
    chunks, at = [], len(PNG_START)
    while at + 8 <= len(whole):
        (length,) = struct.unpack(">I", whole[at : at + 4])
        chunks.append((whole[at + 4 : at + 8], whole[at + 8 : at + 8 + length]))
        at += 12 + length
    number = rng.randrange(len(chunks))
    kind, content = chunks[number]
    match rng.randrange(4):
        case 0:
            chunks[number] = kind, damaged_bytes(content or b"\0", rng)
        case 1:
            chunks.insert(number, chunks[rng.randrange(len(chunks))])
        case 2:
            rng.shuffle(chunks)
        case _:
            chunks[number] = rng.choice((b"eXIf", b"iTXt", b"zTXt", b"iCCP", b"tRNS", b"PLTE", b"fcTL", kind)), content
    return PNG_START + b"".join(chunk(*entry) for entry in chunks)
