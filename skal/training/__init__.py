"""How the trainable layers are trained: one file per recipe."""
