"""Loaders: a file per training objective, each a `keras.utils.PyDataset`."""
