"""The transformer brain encoder: queries of regions or neuroids attend to a frozen model's tokens."""
