"""Defences of a client; a file is one defence as a plan configures it, with its CARD.

Called, the package lists the cards by name (`fedspill.defences()`).
"""

import sys

from fedspill.core.libraries.callable_package import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
