"""What a file really is, from its first bytes, when it is not what its name says."""

__all__ = ["impostor"]


def impostor(start: bytes) -> str | None:
    """Return what a file is if it only stands in for the wanted one, else None.

    Two things commonly sit where a download should be: a web page, and the pointer that Git LFS
    leaves when the large file itself was not fetched.

    Args:
        start: The first bytes of the file; 200 are enough.
    """
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself; run 'git lfs pull' where it came from"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, so the download went wrong; download the file itself"
    return None
