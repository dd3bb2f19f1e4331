"""Building blocks of the HTML reports, which are single files: page, table, figure with embedded PNG, number."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable

from PIL import Image


def html_page(title: str, style: str, body: str) -> str:
    """Return a complete HTML document.

    Parameters
    ----------
    title : str
        Title of the document as plain text; it is escaped here.
    style : str
        The style sheet (CSS).
    body : str
        HTML between ``<body>`` and ``</body>``.

    Returns
    -------
    str
        The document, UTF-8 declared, without any reference to another file.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def html_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table with a head row.

    Parameters
    ----------
    head : iterable of str
        HTML of the column names.
    rows : iterable of iterable of str
        HTML of the cells, row by row.

    Returns
    -------
    str
        A ``<table>`` element.

    Examples
    --------
    >>> html_table(["a"], [["1"], ["2"]])
    '<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>1</td></tr><tr><td>2</td></tr></tbody></table>'
    """
    cells = "".join(f"<th>{name}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"


def html_image(png: bytes, alternative: str, identifier: str | None = None) -> str:
    """Return a picture embedded in the page.

    Parameters
    ----------
    png : bytes
        The PNG file's content.
    alternative : str
        Description for readers who do not see the picture, as HTML.
    identifier : str, optional
        The ``id`` attribute of the element; without it there is none.

    Returns
    -------
    str
        An ``<img>`` element with a ``data:`` address.
    """
    identity = "" if identifier is None else f'id="{identifier}" '
    return f'<img {identity}alt="{alternative}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def html_figure(png: bytes, alternative: str, caption: str, identifier: str | None = None) -> str:
    """Return an embedded picture with its caption.

    Parameters
    ----------
    png, alternative, identifier
        As in `html_image`.
    caption : str
        HTML shown below the picture.

    Returns
    -------
    str
        A ``<figure>`` element.
    """
    return f"<figure>{html_image(png, alternative, identifier)}<figcaption>{caption}</figcaption></figure>"


def format_number(value: float | None, digits: int, missing: str = "-") -> str:
    """Return a number with a fixed count of decimals.

    Parameters
    ----------
    value : float or None
        The number.
    digits : int
        Count of decimals.
    missing : str, default "-"
        Returned for None and for values that are not finite.

    Returns
    -------
    str
        The number as text.

    Examples
    --------
    >>> format_number(1.25, 1), format_number(None, 1), format_number(float("nan"), 1, "?")
    ('1.2', '-', '?')
    """
    return missing if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def encode_png(image: Image.Image) -> bytes:
    """Return a picture as the content of an optimised PNG file.

    Parameters
    ----------
    image : PIL.Image.Image
        The picture.

    Returns
    -------
    bytes
        The file's content.
    """
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return content.getvalue()
