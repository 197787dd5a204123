"""Image input: decoding, checks, pre-processing and crops of ``X``. No other package reads pixels."""

from skal.images.decode import UnreadableImageError, decode
from skal.images.forms import Pool
from skal.images.inputs import InputSpec
from skal.images.readable import Readable, readable
from skal.images.transform import ImageTransform

__all__ = ["ImageTransform", "InputSpec", "Pool", "Readable", "UnreadableImageError", "decode", "readable"]
