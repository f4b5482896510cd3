"""One file, one attack, one CARD."""

import sys

from fedspill.core.callable_package import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
