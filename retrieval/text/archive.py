"""Office files are ZIP archives of XML: opened with a bound on their size, parsed without entities or network."""

from __future__ import annotations

import zipfile
from typing import IO, Any

from retrieval.text.piece import Unreadable

LIMIT = 512 << 20  # bytes that an archive may unpack to


def open_archive(stream: IO[bytes], what: str) -> zipfile.ZipFile:
    """The archive of an office file; `what` names the format in errors.

    Raises:
        Unreadable: it is no archive, is encrypted, or would unpack to more than 512 MiB.
    """
    head = stream.read(8)
    stream.seek(0)
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        raise Unreadable(f"not {what}: an encrypted file, or one of the old binary formats; save it anew")
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise Unreadable(f"not {what}: {error}") from None
    if sum(entry.file_size for entry in archive.infolist()) > LIMIT:
        raise Unreadable("unpacks to more than 512 MiB")
    return archive


def part(archive: zipfile.ZipFile, name: str, what: str) -> Any:
    """The root element of an XML part, or None where the archive has no such part.

    Raises:
        Unreadable: the part is not XML.
    """
    try:
        data = archive.read(name)
    except KeyError:
        return None
    except (zipfile.BadZipFile, OSError, RuntimeError) as error:
        raise Unreadable(f"not {what}: {error}") from None
    return parse(data, what)


def parse(data: bytes, what: str) -> Any:
    """The root element of an XML text. Entities stay unexpanded, and nothing is fetched.

    Raises:
        Unreadable: it is not XML.
    """
    from lxml import etree

    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False,
        remove_comments=True, remove_pis=True,
    )  # fmt: skip
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise Unreadable(f"not {what}: {error}") from None
    if root is None:
        raise Unreadable(f"not {what}: no root element")
    return root


def local(element: Any) -> str:
    """An element's name without its namespace; "" for an entity."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def attribute(element: Any, name: str) -> str:
    """The value of an attribute, whatever its namespace; "" for none."""
    return next((str(value) for key, value in element.attrib.items() if key.rpartition("}")[2] == name), "")
