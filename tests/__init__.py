"""The tests mirror the program file by file."""
