"""Reads XML that somebody else made."""

from lxml import etree


def parse(content: bytes) -> etree._Element:
    """The root; ValueError, with a text for KSeF's details, where it is no XML or has a DOCTYPE."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"Dokument nie jest poprawnym plikiem XML: {error}") from None
    if root.getroottree().docinfo.doctype:
        raise ValueError("Dokument zawiera niedozwoloną deklarację DOCTYPE.")
    return root
