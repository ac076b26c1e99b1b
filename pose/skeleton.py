"""The 18-part skeleton of OpenPose's COCO model: parts, limbs, PAF channels, colours, mirroring."""

PART_NAMES = (
    *("nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist"),
    *("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle"),
    *("right eye", "left eye", "right ear", "left ear"),
)
NUM_PARTS = len(PART_NAMES)

# Heatmap channels: one per part, then the background. PAF channels: x and y of each limb.
NUM_HEATMAPS = NUM_PARTS + 1
NUM_PAFS = 38

# A limb is a pair of parts; its part affinity field points from the first to the second.
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (2, 16), (5, 17)),
)
LIMB_PAFS = tuple((x, x + 1) for x in (12, 20, 14, 16, 22, 24, 0, 2, 4, 6, 8, 10, 28, 30, 34, 32, 36, 18, 26))
# The limbs between shoulder and ear serve grouping only.
DRAWN_LIMBS = LIMBS[:-2]

# (R, G, B) of the parts; the drawn limbs take the same colours in the same order.
COLORS = (
    *((0, 0, 255), (0, 85, 255), (0, 170, 255), (0, 255, 255), (0, 255, 170), (0, 255, 85), (0, 255, 0)),
    *((85, 255, 0), (170, 255, 0), (255, 255, 0), (255, 170, 0), (255, 85, 0), (255, 0, 0)),
    *((255, 0, 85), (255, 0, 170), (255, 0, 255), (170, 0, 255), (85, 0, 255)),
)
LIMB_COLORS = COLORS[: len(DRAWN_LIMBS)]

# MIRROR[part] is the part that it becomes in a mirror image: left and right swap.
MIRROR = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
