"""Schemes of models, for packages that add one: the protocol, and how a scheme is found.

:mod:`mltrigger.versions.scheme` describes it.
"""

from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting, is_address, scheme_of

__all__ = ["Description", "Endpoint", "Scheme", "Setting", "is_address", "scheme_of"]
