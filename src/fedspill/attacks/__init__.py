"""Attacks on an honest or a tampered model; a file is one attack of the literature with its presets, its CARD.

Called, the package lists the cards by name (`fedspill.attacks()`).
"""

import sys

from fedspill.core.libraries.callable_package import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
