"""What every package may use: command lines, whole files, frames, videos, processes."""
