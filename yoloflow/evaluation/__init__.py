"""Step 7: the test function, non-maximum suppression and COCO figures.

Nothing is imported here: `evaluation.coco` must work without torch, `evaluation.nms` needs it.
"""
