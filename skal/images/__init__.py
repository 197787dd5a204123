"""What ``X`` may be: decode, check, pre-process, crop. Nothing else looks at pixels."""

from skal.images.decode import UnreadableImageError, decode
from skal.images.forms import Pool
from skal.images.inputs import InputSpec
from skal.images.readable import Readable, readable
from skal.images.transform import ImageTransform

__all__ = ["ImageTransform", "InputSpec", "Pool", "Readable", "UnreadableImageError", "decode", "readable"]
