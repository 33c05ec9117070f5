"""Laws: distributions over whole clean sequences."""

from fewjump.law.base import Law
from fewjump.law.product import ProductLaw

__all__ = ["Law", "ProductLaw"]
