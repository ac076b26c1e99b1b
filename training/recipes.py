"""Presets of the training options, `--recipe`: the authors' method to the letter, and the best that was measured.

Any option on the command line goes before its preset. How each part was measured: docs/recipe.md.
"""

_ORIGINAL = {
    "schedule": "plateau",
    "lr_patience": 1,
    "warmup": 0.0,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "ema": 0.0,
    "freeze_bn": "none",
    "least_steps": 0,
    "test_every": 1,
    "test_clips": 19,
    "optimizer": "sgd",
    "clip_gradients": 0.0,
}
# What the modern recipe changes.
_MODERN = {
    "schedule": "cosine",
    "warmup": 1.0,
    "weight_decay": 5e-4,
    "label_smoothing": 0.1,
    "ema": 0.98,
    "least_steps": 800,
    "test_every": None,
    "test_clips": 5,
}
# Temporal heads: a constant rate of Adam.
_TEMPORAL = _ORIGINAL | {"schedule": "step", "optimizer": "adam", "test_clips": 1, "test_every": None}
_TEMPORAL |= {"epochs": 30, "batch_size": 64, "least_steps": 300}
_SPATIAL = {"lr": 5e-4, "batch_size": 25, "epochs": 15, "crop": "random", "color_jitter": 0.0}
_SPATIAL |= {"normalize": True}  # with ImageNet's mean and standard deviation
_MOTION_POSE = {"lr": 1e-2, "batch_size": 64, "epochs": 50, "segments": 1, "normalize": False, "from_keypoints": False}
_FLOW = {"lr": 1e-2, "batch_size": 64, "epochs": 50, "segments": 1}
RECIPES = {
    "spatial": {
        "original": _ORIGINAL | _SPATIAL,
        "modern": _ORIGINAL | _SPATIAL | _MODERN | {"lr": 2e-3, "crop": "resized"},
    },
    "motion_pose": {
        "original": _ORIGINAL | _MOTION_POSE,
        "modern": _ORIGINAL | _MOTION_POSE | _MODERN | {"normalize": True, "from_keypoints": None},
    },
    # Two-Stream Networks' and TSN's flow with the settings of pose flow.
    "flow": {"original": _ORIGINAL | _FLOW, "modern": _ORIGINAL | _FLOW | _MODERN},
    # For few videos and slow machines, from random weights.
    "skeleton": {
        "modern": _ORIGINAL
        | _MODERN
        | {"lr": 0.05, "batch_size": 16, "epochs": 20, "dropout": 0.3, "least_steps": 600, "test_clips": 1}
    },
    # By head; those of TS-LSTM and Temporal-Inception (arXiv 1703.10667).
    "temporal": {
        "ts-lstm": _TEMPORAL | {"arch": "ts-lstm", "lr": 1e-4, "clip_gradients": 5.0},
        "inception": _TEMPORAL
        | {"arch": "inception", "lr": 5e-5, "batch_size": 16, "weight_decay": 0.1, "least_steps": 1000},
        "mean": _TEMPORAL | {"arch": "mean", "lr": 1e-3},
    },
}
