"""What run directories say, read back: records and figures."""
