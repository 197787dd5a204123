"""Pre-trained networks, loaded by name, as graphs of layers that can be cut."""

from skal.backbones.backbone import Backbone
from skal.backbones.graph import LayerGraph
from skal.backbones.load import load_backbone

__all__ = ["Backbone", "LayerGraph", "load_backbone"]
