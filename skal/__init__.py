"""skal: adapt a pre-trained CNN to a new image task with as few labels as possible."""

import lazy_loader

from skal._torchvision import declare_torchvision_operators

declare_torchvision_operators()

__version__ = "0.1.0"

# Imported when first used, as __init__.pyi lists them: torch alone takes seconds, and not every command needs it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
