"""Array work that the strategies share: arrays in, arrays out."""
