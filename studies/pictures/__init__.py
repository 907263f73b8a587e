"""Pictures, captions and depth from a brain: fit what a generator starts from, draw, compare and score."""
