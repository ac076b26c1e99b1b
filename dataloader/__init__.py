"""Lists of videos, sampling of frames, and one data set per stream."""
