"""Malicious servers; a file is one way to alter the model that is sent, with its readout, if it has one, and its CARD.

Called, the package lists the cards by name (`fedspill.tamperings()`).
"""

import sys

from fedspill.core.libraries.callable_package import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
