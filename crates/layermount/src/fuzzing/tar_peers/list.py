# Lists archives as Python's tarfile sees them: each comes with its length before it, and is answered by its entries and a mark,
# "." for the archive's end and "!" for an error.
import io
import struct
import sys
import tarfile

KINDS = {
    tarfile.DIRTYPE: b"d", tarfile.SYMTYPE: b"l", tarfile.LNKTYPE: b"h",
    tarfile.CHRTYPE: b"c", tarfile.BLKTYPE: b"b", tarfile.FIFOTYPE: b"p",
}


def entries(archive):
    # TarFile.next would take a broken header for the archive's end.
    tar = tarfile.TarFile.__new__(tarfile.TarFile)
    tar.fileobj, tar.offset, tar.pax_headers = io.BytesIO(archive), 0, {}
    tar.encoding, tar.errors, tar.mode, tar._mode = "utf-8", "surrogateescape", "r", "rb"
    while True:
        tar.fileobj.seek(tar.offset)
        try:
            yield tarfile.TarInfo.fromtarfile(tar)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):
            return


def answer(archive, out):
    try:
        for entry in entries(archive):
            kind = KINDS.get(entry.type, b"-")
            # Those that tarfile itself does not know are files to it.
            out.write(kind)
            for text in (entry.name, entry.linkname if kind in b"lh" else ""):
                text = text.encode("utf-8", "surrogateescape")
                out.write(struct.pack(">I", len(text)) + text)
            out.write(struct.pack(">Q", entry.size if kind == b"-" else 0))
        out.write(b".")
    except (tarfile.TarError, ValueError, ArithmeticError, struct.error, LookupError):
        out.write(b"!")
    out.flush()


while len(length := sys.stdin.buffer.read(4)) == 4:
    answer(sys.stdin.buffer.read(struct.unpack(">I", length)[0]), sys.stdout.buffer)
