"""COCO's 17 keypoints as people of the 18 parts: what networks trained on COCO find."""

import numpy as np

from pose.skeleton import NUM_PARTS

# COCO's keypoints, in its order, as parts of the skeleton; the neck is not among them.
COCO_PARTS = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)
NECK, SHOULDERS = 1, (2, 5)
MIN_PARTS = 4
BOX_SCORE = 0.7  # of Keypoint R-CNN
KEYPOINT_LOGIT = 2.0
PART_SCORE = 0.3  # of RTMPose, below which MMPose does not draw a part either


def people_from_coco(keypoints: np.ndarray, scores: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """People, float32 (P, 18, 3), from keypoints (P, 17, 2) in pixels and their scores (P, 17), 0 where not found.

    The neck is the middle of the shoulders if both were found, with the lower of their scores. People of fewer than
    4 parts are left out.
    """
    people = np.zeros((len(keypoints), NUM_PARTS, 3), np.float32)
    height, width = frame_size
    people[:, COCO_PARTS, :2] = (keypoints / (width, height)).clip(0, 1)
    people[:, COCO_PARTS, 2] = scores
    right, left = (people[:, shoulder] for shoulder in SHOULDERS)
    neck = np.concatenate(((right[:, :2] + left[:, :2]) / 2, np.minimum(right, left)[:, 2:]), axis=1)
    people[:, NECK] = neck
    people *= people[..., 2:] > 0
    return people[np.count_nonzero(people[..., 2], axis=1) >= MIN_PARTS]


def group_keypointrcnn(raw: tuple[np.ndarray, ...], frame_size: tuple[int, int]) -> np.ndarray:
    """People from Keypoint R-CNN's box scores (P,), keypoints (P, 17, 3) in pixels, and their logits (P, 17).

    A person needs a box score of 0.7. A part's logit is the height of its peak before the softmax over its position;
    above 2, the usual threshold for drawing, it is found, with the score sigmoid(logit - 2).
    """
    boxes, keypoints, logits = raw
    keep = boxes >= BOX_SCORE
    keypoints, logits = keypoints[keep], logits[keep]
    scores = (logits > KEYPOINT_LOGIT) / (1 + np.exp((KEYPOINT_LOGIT - logits).clip(-50, 50)))
    return people_from_coco(keypoints[..., :2], scores, frame_size)


def group_rtmpose(raw: tuple[np.ndarray, ...], frame_size: tuple[int, int]) -> np.ndarray:
    """People from RTMPose's keypoints (P, 17, 2) in pixels and their scores (P, 17); a part needs a score of 0.3."""
    keypoints, scores = raw
    return people_from_coco(keypoints, np.where(scores >= PART_SCORE, scores, 0).clip(0, 1), frame_size)
