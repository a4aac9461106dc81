"""Demo: real data that is small enough to learn while one waits."""
