"""Names and texts as SQL has them."""


def ident(name: str) -> str:
    """Return the name of a table or column, quoted."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text, quoted."""
    return "'" + text.replace("'", "''") + "'"
