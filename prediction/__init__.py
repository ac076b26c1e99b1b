"""Videos through trained streams."""
