"""The command line. Nothing below prints."""
