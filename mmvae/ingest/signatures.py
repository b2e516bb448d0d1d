"""Names what a file is by its first bytes, so that a file that is left out is named for what it is."""

# Offset, bytes there, and what the file then is (each format's own specification).
_SIGNATURES = (
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ\x00", "an xz archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it first"),
    (0, b"Rar!\x1a\x07", "a RAR archive; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive; unpack it first"),
    (0, b"%PDF", "a PDF"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"GIF8", "a GIF picture"),
    (0, b"BM", "a BMP picture"),
    (0, b"II*\x00", "a TIFF picture"),
    (0, b"MM\x00*", "a TIFF picture"),
    (0, b"\x5c\x01\x00\x00", "a NIfTI or Analyze header"),
    (0, b"\x00\x00\x01\x5c", "a NIfTI or Analyze header"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"NRRD", "an NRRD volume"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\xd0\xcf\x11\xe0", "an old Office document"),
    (0, b"{\\rtf", "a Rich Text document"),
    (0, b"MZ", "a Windows program"),
    (0, b"\x7fELF", "a Linux program"),
    (0, b"SQLite format 3\x00", "a SQLite database"),
    (0, b"DICM", "a DICOM file that has lost the 128 bytes before its DICM mark; put them back"),
)


def kind_of_file(head: bytes) -> str | None:
    """What a file with these first bytes is, in words; None if they say nothing."""
    if not head:
        return "empty"
    if not any(head):
        return "a file of zeros"
    for offset, mark, words in _SIGNATURES:
        if head[offset:].startswith(mark):
            return words
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<?xml", b"<!DOCTYPE", b"<html", b"<HTML", b"<")):
        return "an XML or HTML text"
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
    return "a text" if printable == len(head) else None
