"""Recognises files that are not safetensors by their first bytes, and says what to do."""

__all__ = ["foreign_file"]

_CONVERT = "`billhook convert OLD NEW.safetensors` reads it"
_KINDS = {
    b"PK\x03\x04": f"a file of torch.save (or another zip archive): {_CONVERT}",
    b"\x80\x02": f"a pickle, as old versions of torch.save wrote it: {_CONVERT}",
    b"\x80\x04": "a pickle, which may run code when it is opened: save its tensors instead",
    b"\x1f\x8b": "compressed with gzip: unpack it with `gunzip`",
    b"GGUF": "a GGUF file: convert it to safetensors with the tools of its project",
    b"\x89HDF": "an HDF5 file, as Keras writes it: save the tensors with safetensors",
    b"\x93NUMPY": "a NumPy array: save it in a dict of torch tensors",
    b"{": "text, perhaps JSON, and not tensors",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself with `git lfs pull`",
}


def foreign_file(start: bytes) -> str | None:
    """The kind of file that begins with these bytes, and what to do; None if it is not known.

    >>> foreign_file(b"GGUF....")
    'a GGUF file: convert it to safetensors with the tools of its project'
    """
    return next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), None)
