"""Human-in-the-loop labelling: from a folder of images to labels, a model and an honest accuracy."""

from skal.label.asking import Question
from skal.label.log import LogError
from skal.label.report import Status
from skal.label.session import LabelSession

__all__ = ["LabelSession", "LogError", "Question", "Status"]
