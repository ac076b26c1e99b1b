"""What every package may use: command lines, files that appear whole, frames, videos, processes, downloads."""
