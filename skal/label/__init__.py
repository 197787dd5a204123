"""A person in the loop: from a folder of images to labels, a model and an honest accuracy."""
